"""The frontend and an agent talk: framed messages over one TCP connection, each of bounded size.

A message is a header (kind, generation, length of the body) and its body: JSON, or the 64-bit words of wire.py and
arrays. A generation is one start of the ranks; what is said of an older one is void.

    agent:                                LISTENING        READY         ANSWERS, FINISHED      ENDED, LEAVING
    frontend: (handshake.py) START                  PEERS         STEP                    STOP                BYE
"""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from moe_runtime.comm.peers import keep_alive
from moe_runtime.errors import ProtocolError, RuntimeFailure

PROTOCOL: Final = 3
"""Version: of the frames, of the messages, and of the gateways' frames."""
SMALL_BYTES: Final = 1 << 18
"""Largest message in JSON."""
_HEADER: Final = struct.Struct("<IIQ")


class Kind(IntEnum):
    """What a message says."""

    HELLO = 1
    """The agent says who it is: slot, attempt, plan, protocol, and a random number."""
    WELCOME = 2
    """It belongs to the replica."""
    REFUSED = 3
    """It does not: reason."""
    START = 4
    """Start the ranks."""
    LISTENING = 5
    """They have begun: host, port for the other slots."""
    PEERS = 6
    """comm.peers.Peers: where all slots listen."""
    READY = 7
    """The ranks hold their weights and are connected."""
    STEP = 8
    """Compute: number of shards that answer there, then the words of wire.encode_step."""
    ANSWERS = 9
    """Tokens drawn, as the rows of ANSWER."""
    FINISHED = 10
    """The ranks are through with the step: their counters."""
    ENDED = 11
    """The ranks cannot go on: host.messages.Report."""
    STOP = 12
    """End the ranks."""
    LEAVING = 13
    """The agent was told to end, and goes on for its grace period."""
    BYE = 14
    """The frontend has ended, or can do without the agent."""
    CHALLENGE = 15
    """A random number, and the proof that the frontend knows the secret."""
    PROOF = 16
    """The proof that the agent knows it."""


class Disconnected(RuntimeFailure):  # what it is says more than an Error suffix
    """The other end is gone."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that came."""

    kind: Kind
    generation: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body of a message in JSON. Raises ProtocolError."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{self.kind.name} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ProtocolError(f"{self.kind.name} is not a JSON object")
        return value


class Connection:
    """One end. Any thread may send; one receives."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(None)
        keep_alive(connected)  # bounds sends too: what is not acknowledged in half a minute breaks the connection
        self._socket = connected
        self._sending = threading.Lock()

    def send(self, kind: Kind, generation: int, *parts: Any) -> None:
        """Send buffers as a message, whole. Raises Disconnected."""
        views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        header = _HEADER.pack(kind, generation, sum(view.nbytes for view in views))
        try:
            with self._sending:
                self._socket.sendall(b"".join((header, *views)))
        except OSError as error:
            raise Disconnected(str(error)) from error

    def send_json(self, kind: Kind, generation: int, fields: Mapping[str, Any]) -> None:
        """Send a message in JSON. Raises Disconnected."""
        self.send(kind, generation, json.dumps(dict(fields)).encode())

    def receive(self, most_bytes: int, timeout_s: float | None = None) -> Message:
        """The next message. Raises Disconnected, and ProtocolError for what is none or is too large."""
        self._socket.settimeout(timeout_s)
        kind, generation, length = _HEADER.unpack(self._exactly(_HEADER.size))
        if kind not in Kind._value2member_map_:
            raise ProtocolError(f"what came is no message of this protocol: kind {kind}")
        if length > most_bytes:
            raise ProtocolError(f"{Kind(kind).name} has {length} bytes; at most {most_bytes} are taken")
        return Message(Kind(kind), generation, self._exactly(length))

    def own_address(self) -> str:
        """Address of this end."""
        return str(self._socket.getsockname()[0])

    def hang_up(self) -> None:
        """Let every `receive` and `send`, in whatever thread, raise Disconnected from now on."""
        with contextlib.suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up and release the socket: for the thread that receives."""
        self.hang_up()
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        body = bytearray(size)
        view = memoryview(body)
        try:
            while view:
                count = self._socket.recv_into(view)
                if not count:
                    raise Disconnected("the connection was closed")
                view = view[count:]
        except OSError as error:
            raise Disconnected(str(error)) from error
        return bytes(body)
