"""Where agents come to: the frontend listens for them as long as it lives, whatever becomes of ranks and agents.

A hub knows who is connected and passes on what is said; what it means is the business of the generation that it
serves, one start of the ranks.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

from moe_plan.plan import Plan
from moe_runtime.errors import ProtocolError
from moe_runtime.group.connection import PROTOCOL, SMALL_BYTES, Connection, Disconnected, Kind, Message
from moe_runtime.group.contents import most_message_bytes, slot_extent
from moe_runtime.group.handshake import STRANGER, knows_secret

log = logging.getLogger(__name__)

HELLO_S: Final = 10.0
"""Time in which whoever connects must have said who it is."""
PAUSE_S: Final = 0.1
"""After a connection that could not be accepted."""
CLOSE_S: Final = 5.0
"""Longest wait for each thread at the end."""
MOST_STRANGERS: Final = 64
"""Connections beyond those of the slots that may be about to say who they are."""


class Generation(Protocol):
    """One start of the ranks, as agents' messages meet it. Methods are called from the agents' threads."""

    @property
    def number(self) -> int:
        """Which start it is."""

    @property
    def is_over(self) -> bool:
        """Whether its ranks cannot go on: agents wait for the next."""

    def heard(self, slot: int, message: Message) -> None:
        """An agent said something about this generation. Raises ProtocolError."""

    def gone(self, slot: int) -> None:
        """An agent is not connected any more."""

    def leaving(self, slot: int) -> None:
        """An agent was told to end."""


class Hub:
    """The agents of one replica."""

    def __init__(self, plan: Plan, attempt: int, listener: socket.socket, secret: str = "") -> None:
        self._plan = plan
        self._attempt = attempt
        self._secret = secret
        self._listener = listener
        self._lock = threading.RLock()
        self._agents: dict[int, Connection] = {}
        self._leaving: set[int] = set()
        self._generation: Generation | None = None
        self._most_bytes = most_message_bytes(slot_extent(plan, 1))
        self._most_connections = plan.slots + MOST_STRANGERS
        self._connections: dict[Connection, threading.Thread] = {}
        self._closing = threading.Event()
        self._accepting = threading.Thread(target=self._accept, name="agents", daemon=True)
        self._accepting.start()

    def serve(self, generation: Generation) -> None:
        """Tell all agents, those to come included, to start their ranks."""
        with self._lock:
            self._generation = generation
            for slot in tuple(self._agents):
                self._start(slot)

    def tell(self, slot: int, kind: Kind, number: int, *parts: Any) -> None:
        """Send a message to an agent; nothing happens when it is gone, which its generation learns by itself."""
        with self._lock:
            agent = self._agents.get(slot)
        if agent is not None:
            with contextlib.suppress(Disconnected):
                agent.send(kind, number, *parts)

    def missing(self) -> Sequence[int]:
        """Slots whose agents are not connected."""
        with self._lock:
            return [slot for slot in range(1, self._plan.slots) if slot not in self._agents]

    def leaving(self) -> Sequence[int]:
        """Slots whose agents are about to end."""
        with self._lock:
            return sorted(self._leaving)

    def close(self) -> None:
        """Send all agents home and take no more."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or `accept` would go on
        self._listener.close()
        self._accepting.join(CLOSE_S)
        with self._lock:
            self._generation = None
            slots, connections = tuple(self._agents), dict(self._connections)
        for slot in slots:
            self.tell(slot, Kind.BYE, 0)
        for connection, thread in connections.items():
            connection.hang_up()
            thread.join(CLOSE_S)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connected, _ = self._listener.accept()
                self._take_in(connected)
            except OSError as error:
                if not self._closing.wait(PAUSE_S):
                    log.warning("a connection could not be accepted: %s", error)

    def _take_in(self, connected: socket.socket) -> None:
        """Hear who connected in a thread of its own; hang up when too many are heard already."""
        with self._lock:
            if len(self._connections) >= self._most_connections:
                connected.close()
                return
            connection = Connection(connected)
            thread = threading.Thread(target=self._meet, args=(connection,), name="agent", daemon=True)
            self._connections[connection] = thread
            thread.start()

    def _meet(self, connection: Connection) -> None:
        try:
            slot = self._greet(connection)
            if slot is not None:
                self._listen_to(slot, connection)
        except (Disconnected, ProtocolError) as error:
            log.info("a connection that was no agent's was closed: %s", error)
        finally:
            connection.close()
            with self._lock:
                del self._connections[connection]

    def _greet(self, connection: Connection) -> int | None:
        """The slot of who connected; None when it was refused."""
        hello = connection.receive(SMALL_BYTES, HELLO_S)
        said = hello.json() if hello.kind is Kind.HELLO else {}
        reason = self._objection(said)
        if not reason and not knows_secret(connection, said, self._secret, HELLO_S):
            reason = STRANGER
        if reason:
            log.warning("refused an agent: %s", reason)
            connection.send_json(Kind.REFUSED, 0, {"reason": reason})
            return None
        connection.send_json(Kind.WELCOME, 0, {})
        return int(said["slot"])

    def _objection(self, said: dict[str, Any]) -> str:
        """Why an agent does not belong here; empty when it does."""
        slot = said.get("slot")
        if said.get("protocol") != PROTOCOL:
            return f"it speaks protocol {said.get('protocol')}, the frontend {PROTOCOL}; run the same image in all pods"
        if said.get("plan") != self._plan.hash:
            return f"it has plan {str(said.get('plan'))[:8]}, the frontend {self._plan.hash[:8]}"
        if said.get("attempt") != self._attempt:
            return f"it is of attempt {said.get('attempt')}, the frontend of {self._attempt}"
        if not isinstance(slot, int) or not 0 < slot < self._plan.slots:
            return f"it has slot {slot!r}, and agents have slots 1 to {self._plan.slots - 1}"
        return ""

    def _listen_to(self, slot: int, connection: Connection) -> None:
        self._add(slot, connection)
        try:
            while True:
                self._pass_on(slot, connection.receive(self._most_bytes))
        except Disconnected:
            pass
        except ProtocolError as error:
            log.warning("hung up on the agent of slot %d: %s", slot, error)
        finally:
            self._remove(slot, connection)

    def _pass_on(self, slot: int, message: Message) -> None:
        with self._lock:
            generation = self._generation
            if message.kind is Kind.LEAVING:
                log.info("slot %d was told to end", slot)
                self._leaving.add(slot)
        if generation is not None and message.kind is Kind.LEAVING:
            generation.leaving(slot)
        elif generation is not None and message.generation == generation.number:
            generation.heard(slot, message)

    def _add(self, slot: int, connection: Connection) -> None:
        """Take an agent in, in the place of one whose end has not been noticed yet."""
        with self._lock:
            before = self._agents.pop(slot, None)
            if before is not None:
                before.hang_up()
                self._tell_gone(slot)
            self._agents[slot] = connection
            self._start(slot)
        log.info("slot %d has joined", slot)

    def _remove(self, slot: int, connection: Connection) -> None:
        with self._lock:
            if self._agents.get(slot) is connection:
                del self._agents[slot]
                self._leaving.discard(slot)
                log.info("slot %d has gone", slot)
                self._tell_gone(slot)

    def _start(self, slot: int) -> None:
        if self._generation is not None and not self._generation.is_over:
            self.tell(slot, Kind.START, self._generation.number)

    def _tell_gone(self, slot: int) -> None:
        if self._generation is not None:
            self._generation.gone(slot)
