"""The agent of a slot: it runs the slot's ranks as the frontend in slot 0 tells, and outlives both.

It connects to the frontend and, when it loses it, ends the ranks and connects again, until a deadline. Told to end by
SIGTERM, it says so and goes on for its grace period or until the frontend lets it go, so that what is being answered
can be finished.

Three threads: this one receives; one drives the ranks of the current generation; one answers probes (probes.py).
"""

import logging
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from moe_plan.plan import Plan
from moe_runtime.comm.peers import Peers
from moe_runtime.errors import ProtocolError, RankLost, RanksCut, RanksFailed, RuntimeFailure
from moe_runtime.group.connection import PROTOCOL, Connection, Disconnected, Kind, Message
from moe_runtime.group.contents import answers_body, most_message_bytes, read_step, slot_extent
from moe_runtime.group.handshake import join
from moe_runtime.group.membership import FrontendSilent, GroupError, Membership, NameUnknown, why_unresolved
from moe_runtime.host.messages import Device, Report
from moe_runtime.host.rank_host import Post, RankHost
from moe_runtime.termination import spoken

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S: Final = 900.0
"""Longest time without a frontend."""
CONNECT_TIMEOUT_S: Final = 5.0
PAUSE_S: Final = 0.5
"""Between attempts to connect."""
GRACE_S: Final = 20.0
"""Time for which the ranks go on after SIGTERM, unless the frontend can do without them before."""
LOAD_DEADLINE_S: Final = 900.0
"""Longest time in which ranks may load a checkpoint."""


class Agent:
    """One slot's agent."""

    def __init__(self, plan: Plan, checkpoint: Path | None, device: Device, membership: Membership) -> None:
        self._plan, self._checkpoint, self._device = plan, checkpoint, device
        self._membership = membership
        self._most_bytes = most_message_bytes(slot_extent(plan, membership.slot))
        self._ending = threading.Event()
        self._connection: Connection | None = None
        self._drive: _Drive | None = None
        self.why_not_ready = "it has not reached the frontend yet"
        """Empty while the ranks are connected, loaded and taking steps."""

    def run(self) -> None:
        """Serve until told to end. Raises GroupError when no frontend took it in for too long."""
        with self._ending_on_signals():
            while not self._ending.is_set():
                connection = self._connect()
                if connection is not None:
                    self._serve(connection)

    # Signals.

    @contextmanager
    def _ending_on_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: object) -> None:
        grace_s = 0.0 if self._ending.is_set() else GRACE_S
        self._ending.set()
        if self._connection is not None:
            self._begin_to_leave(self._connection, grace_s)

    def _begin_to_leave(self, connection: Connection, grace_s: float) -> None:
        threading.Thread(target=self._leave, args=(connection, grace_s), daemon=True).start()

    def _leave(self, connection: Connection, grace_s: float) -> None:
        log.info("stopping: the ranks go on for at most %.0f s; again to stop at once", grace_s)
        with suppress(Disconnected):
            connection.send(Kind.LEAVING, 0)
        threading.Event().wait(grace_s)
        connection.hang_up()

    # The connection to the frontend.

    def _connect(self) -> Connection | None:
        """A connection to a frontend that took the agent in; None when told to end."""
        give_up = time.monotonic() + CONNECT_DEADLINE_S
        told = ""
        while not self._ending.is_set():
            try:
                return self._knock()
            except (Disconnected, ProtocolError, GroupError, OSError) as error:
                failure = self._not_taken_in(error)
            self.why_not_ready = spoken(failure.word, str(failure))
            if self.why_not_ready != told:
                told = self.why_not_ready
                log.info("waiting: %s", failure)
            if time.monotonic() > give_up:
                raise type(failure)(f"for {CONNECT_DEADLINE_S:.0f} s {failure}")
            self._ending.wait(PAUSE_S)
        return None

    def _not_taken_in(self, error: Exception) -> GroupError:
        where = f"the frontend at {self._membership.leader} port {self._membership.port} has not taken it in"
        if isinstance(error, socket.gaierror):
            return NameUnknown(f"{where}: {why_unresolved(error)}")
        return FrontendSilent(f"{where}: {error}")

    def _knock(self) -> Connection:
        member = self._membership
        source = (member.address, 0) if member.address else None
        connected = socket.create_connection((member.leader, member.port), CONNECT_TIMEOUT_S, source)
        connection = Connection(connected)
        try:
            who = {"slot": member.slot, "attempt": member.attempt, "plan": self._plan.hash, "protocol": PROTOCOL}
            join(connection, who, member.secret, CONNECT_TIMEOUT_S)
        except RuntimeFailure:
            connection.close()
            raise
        return connection

    def _serve(self, connection: Connection) -> None:
        self._connection = connection
        if self._ending.is_set():  # the signal came while it was being taken in
            self._begin_to_leave(connection, GRACE_S)
        log.info("joined the frontend as slot %d", self._membership.slot)
        self.why_not_ready = "the frontend has not started the ranks yet"
        try:
            while True:
                message = connection.receive(self._most_bytes)
                if message.kind is Kind.BYE:
                    log.info("the frontend needs this slot no more")
                    return
                self._obey(connection, message)
        except (Disconnected, ProtocolError) as error:
            log.info("left the frontend: %s", error)
        finally:
            self._connection = None
            connection.close()
            self._stop_ranks()

    def _obey(self, connection: Connection, message: Message) -> None:
        if message.kind is Kind.START:
            self._stop_ranks()
            post = Post(self._membership.slot, self._membership.address or connection.own_address())
            self._drive = _Drive(self, connection, message.generation, post)
        elif self._drive is None or message.generation != self._drive.generation:
            return
        elif message.kind is Kind.STOP:
            self._stop_ranks()
        else:
            self._drive.obey(message)

    def _stop_ranks(self) -> None:
        drive, self._drive = self._drive, None
        if drive is not None:
            drive.stop()
            self.why_not_ready = "the ranks have ended and are to be started again"

    def start_ranks(self, post: Post) -> RankHost:
        """The slot's ranks, starting."""
        return RankHost(self._plan, self._checkpoint, self._device, post=post)


class _Drive:
    """One generation of the slot's ranks, and the thread that drives it."""

    def __init__(self, agent: Agent, connection: Connection, generation: int, post: Post) -> None:
        self.generation = generation
        self._agent, self._connection, self._post = agent, connection, post
        self._steps: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stopping = False
        agent.why_not_ready = "the ranks are starting"
        self._host = agent.start_ranks(post)
        self._host.on_loss(lambda: self._steps.put(None))
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()

    def obey(self, message: Message) -> None:
        """Do what the frontend says of these ranks. Raises ProtocolError."""
        if message.kind is Kind.PEERS:
            try:
                self._host.introduce(Peers.from_json(message.body))
            except ValueError as error:
                raise ProtocolError(f"PEERS: {error}") from error
        elif message.kind is Kind.STEP:
            self._steps.put(message.body)
        else:
            raise ProtocolError(f"a frontend does not say {message.kind.name}")

    def stop(self) -> None:
        """End the ranks, and the thread."""
        self._stopping = True
        self._host.stop()
        self._steps.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._start()
            while (body := self._steps.get()) is not None:
                self._step(body)
            self._host.check()
        except RuntimeFailure as failure:
            self._tell_end(failure)
        except Exception:
            log.exception("the agent failed")
            self._connection.hang_up()  # the frontend takes the slot for gone, and this end starts anew

    def _start(self) -> None:
        port = self._host.wait_listening(LOAD_DEADLINE_S)
        self._connection.send_json(Kind.LISTENING, self.generation, {"host": self._post.address, "port": port})
        self._agent.why_not_ready = "the ranks are loading, or wait for those of other slots"
        self._host.wait_ready(LOAD_DEADLINE_S)
        self._agent.why_not_ready = ""
        self._connection.send(Kind.READY, self.generation)

    def _step(self, body: bytes) -> None:
        words, answers = read_step(body)
        self._host.post(words, answers)
        sampled = self._host.wait_answers()
        if answers:
            self._connection.send(Kind.ANSWERS, self.generation, answers_body(sampled))
        self._host.wait_finished()
        self._connection.send(Kind.FINISHED, self.generation, self._host.expert_rows(), self._host.figures())

    def _tell_end(self, failure: RuntimeFailure) -> None:
        """Tell the frontend why the ranks ended, unless it wanted it."""
        if self._stopping or isinstance(failure, Disconnected):
            return
        self._agent.why_not_ready = f"the ranks have ended: {failure}"
        log.warning("%s", failure)
        with suppress(Disconnected):
            self._connection.send_json(Kind.ENDED, self.generation, asdict(_report(failure)))


def _report(failure: RuntimeFailure) -> Report:
    if isinstance(failure, RanksFailed):
        return Report("failed", None, str(failure))
    if isinstance(failure, RanksCut):
        return Report("cut", None, failure.cause)
    if isinstance(failure, RankLost):
        return Report("lost", failure.rank, failure.cause)
    return Report("lost", None, str(failure))
