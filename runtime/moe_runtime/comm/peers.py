"""How the gateways of a replica find each other: addresses of all slots, and a token that strangers do not know.

Every slot listens before any of them learns the addresses. Each connects to the slots behind it and accepts those
before it, so that none waits for one that waits for it.
"""

import hmac
import json
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from moe_runtime.errors import CommunicationTimeout, SlotLost

MEET_DEADLINE_S: Final = 120.0
"""Longest time for all slots' gateways to connect, from when the last of them listens."""
_HELLO_S: Final = 10.0
_HELLO: Final = struct.Struct("<4sI64s")
_MAGIC: Final = b"moe1"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Peers:
    """What the slots of a replica must know to connect, made anew for each start of the ranks."""

    addresses: tuple[Address, ...]
    """Where each slot's gateway listens; for process groups only that of slot 0, their store, matters."""
    token: str
    """64 hexadecimal digits."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"addresses": self.addresses, "token": self.token})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Peers":
        """Inverse of to_json. Raises ValueError."""
        try:
            parsed = json.loads(text)
            addresses = tuple((str(host), int(port)) for host, port in parsed["addresses"])
            return cls(addresses, str(parsed["token"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the addresses of peers: {error}") from error


def listen_at(host: str) -> socket.socket:
    """A socket that listens on a free port of an address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, backlog=1024)


def meet(peers: Peers, here: int, listener: socket.socket) -> dict[int, socket.socket]:
    """Connections to all other slots, by slot; `listener` is closed. Raises SlotLost, CommunicationTimeout."""
    give_up = time.monotonic() + MEET_DEADLINE_S
    with listener:
        met = {slot: _connect(peers, here, slot, give_up) for slot in range(here + 1, len(peers.addresses))}
        while len(met) < len(peers.addresses) - 1:
            slot, connection = _accept(peers, here, listener, give_up)
            met[slot] = connection
    return met


def keep_alive(connection: socket.socket) -> None:
    """Send small messages at once, and notice within half a minute that the other machine has gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)  # milliseconds, tcp(7)


def _connect(peers: Peers, here: int, slot: int, give_up: float) -> socket.socket:
    host, port = peers.addresses[slot]
    try:
        connection = socket.create_connection((host, port), timeout=max(0.1, give_up - time.monotonic()))
        keep_alive(connection)
        connection.sendall(_HELLO.pack(_MAGIC, here, peers.token.encode()))
    except OSError as error:
        why = error.strerror or str(error)
        raise SlotLost(slot, f"cannot connect to slot {slot} at {host} port {port}: {why}") from error
    return connection


def _accept(peers: Peers, here: int, listener: socket.socket, give_up: float) -> tuple[int, socket.socket]:
    """The next connection from a slot before this one; strangers are hung up on."""
    while (left := give_up - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            break
        slot = _greeted(connection, peers.token)
        if slot is not None and slot < here:
            keep_alive(connection)
            return slot, connection
        connection.close()
    raise CommunicationTimeout(f"waited {MEET_DEADLINE_S:.0f} s for the gateways of the slots before slot {here}")


def _greeted(connection: socket.socket, token: str) -> int | None:
    """The slot that a connection says to be of; None for a stranger."""
    connection.settimeout(_HELLO_S)
    hello = b""
    try:
        while len(hello) < _HELLO.size:
            part = connection.recv(_HELLO.size - len(hello))
            if not part:
                return None
            hello += part
    except OSError:
        return None
    magic, slot, given = _HELLO.unpack(hello)
    return int(slot) if magic == _MAGIC and hmac.compare_digest(given, token.encode()) else None
