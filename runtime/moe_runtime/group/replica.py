"""All ranks of a replica of several slots, as the engine drives them: this slot's directly, the others' by agents.

    replica = Replica(plan, checkpoint, "cpu", "10.0.0.7", hub)     # tells every agent to start its ranks
    replica.wait_ready(900)                                         # all slots listen; each learns the others; loaded
    tokens = replica.run_step(step)

It is one generation: when the ranks of any slot are lost, all of them are, and the next Replica starts them anew.
What is said first is often a consequence (a connection broke), so a better cause is waited for a moment.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moe_plan.plan import Plan
from moe_runtime.comm.peers import Address, Peers
from moe_runtime.comm.slots import Slots
from moe_runtime.errors import ProtocolError, RankLost, RanksCut, RanksFailed, RuntimeFailure, SlotGone
from moe_runtime.group.connection import Kind, Message
from moe_runtime.group.contents import Counters, read_answers, slot_extent, slots_of, step_body
from moe_runtime.group.hub import Hub
from moe_runtime.group.membership import listed
from moe_runtime.group.pace import Pace
from moe_runtime.host import figures
from moe_runtime.host.channel import Extent
from moe_runtime.host.messages import Device, Report, failure_of
from moe_runtime.host.rank_host import STEP_DEADLINE_S, Post, RankHost
from moe_runtime.host.wire import busy_shards, encode_step
from moe_runtime.step import Sampled, Step

CAUSE_S: Final = 2.0
"""Time in which the cause of a broken connection is waited for."""
_GENERATIONS = count(1)


@dataclass(slots=True)
class _Remote:
    """What is known of another slot's ranks in this generation."""

    counters: Counters
    address: Address | None = None
    ready: bool = False
    answers: list[Sampled] | None = None
    through: bool = True


class Replica:
    """One start of a replica's ranks. One thread at a time may step; any may stop."""

    def __init__(self, plan: Plan, checkpoint: Path | None, device: Device, address: str, hub: Hub) -> None:
        """`address` is where other slots reach this one."""
        self.number = next(_GENERATIONS)
        self._plan, self._hub = plan, hub
        self._changed = threading.Condition()
        self._cause: RuntimeFailure | None = None
        self._introduced = False
        self._on_loss: Callable[[], None] = _ignore
        self._address = address
        self._others = {slot: _Remote(Counters.none(slot_extent(plan, slot))) for slot in range(1, plan.slots)}
        self._shards = [_shards_of(slots_of(plan, slot)) for slot in range(plan.slots)]
        self._answering = [_shards_that_answer(slots_of(plan, slot)) for slot in range(plan.slots)]
        # Of GPUs the host's clock tells when work was given, not how long it took.
        self._pace = Pace(plan) if device == "cpu" else None
        self._local = RankHost(plan, checkpoint, device, post=Post(0, self._address))
        self._local.on_loss(self._lost_here)
        hub.serve(self)

    # What the engine asks for.

    def wait_ready(self, deadline_s: float) -> None:
        """Return once every rank of every slot holds its weights and is connected.

        Raises RanksFailed when some cannot serve what they were given, SlotGone when slots are missing when time is
        up or went away, RankLost when ranks ended.
        """
        until = time.monotonic() + deadline_s
        with self._telling_why():
            port = self._local.wait_listening(deadline_s)
            self._await(lambda: all(other.address for other in self._others.values()), until)
            self._introduce(port)
            self._local.wait_ready(max(0.0, until - time.monotonic()))
            self._await(lambda: all(other.ready for other in self._others.values()), until)

    def run_step(self, step: Step) -> list[Sampled]:
        """Compute a step: the tokens drawn, slot by slot. Raises RankLost."""
        until = time.monotonic() + STEP_DEADLINE_S
        busy = busy_shards(step)
        with self._telling_why():
            self._local.wait_finished()
            self._await(lambda: all(other.through for other in self._others.values()), until)
            if self._pace:
                self._pace.begin(step, self._figures())
            for slot, other in self._others.items():
                answering = len(busy & self._answering[slot])
                other.answers, other.through = None if answering else [], False
                body = step_body(encode_step(step, busy & self._shards[slot]), answering)
                self._hub.tell(slot, Kind.STEP, self.number, *body)
            self._local.post(encode_step(step, busy & self._shards[0]), len(busy & self._answering[0]))
            sampled = self._local.wait_answers()
            self._await(lambda: all(other.answers is not None for other in self._others.values()), until)
        return sampled + [one for other in self._others.values() for one in other.answers or ()]

    def check(self) -> None:
        """Raise RankLost if the ranks were lost while nobody asked them anything."""
        if self._cause is not None:
            raise self._best_cause(self._cause)

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call, from whatever thread, when the ranks are lost or a slot is about to leave."""
        self._on_loss = call
        if self._cause is not None:
            call()

    def stop(self) -> None:
        """End every rank. Safe to call twice and from another thread."""
        self._fail(RankLost(None, "the ranks were stopped"))
        for slot in self._others:
            self._hub.tell(slot, Kind.STOP, self.number)
        self._local.stop()

    def missing_slots(self) -> Sequence[int]:
        """Slots that are not connected."""
        return self._hub.missing()

    def leaving_slots(self) -> Sequence[int]:
        """Slots that are about to end: nothing new should be begun."""
        return self._hub.leaving()

    def release(self, slots: Sequence[int]) -> None:
        """Let slots go that wanted to: nothing needs them any more."""
        for slot in slots:
            self._hub.tell(slot, Kind.BYE, self.number)

    def expert_tokens(self) -> NDArray[np.int64]:
        """See figures.expert_tokens."""
        others = [other.counters.expert_rows for other in self._others.values()]
        return figures.expert_tokens(self._plan, np.concatenate([self._local.expert_rows(), *others]))

    def stage_times_s(self) -> NDArray[np.float64]:
        """See figures.stage_times_s."""
        return figures.stage_times_s(self._plan, self._figures())

    def memory_bytes(self) -> NDArray[np.int64]:
        """Memory that each rank takes, `[world]`; 0 where not yet known."""
        return self._figures()[:, figures.MEMORY_BYTES]

    def paces(self) -> Mapping[int, float]:
        """See Pace.paces."""
        return self._pace.paces() if self._pace else {}

    def slow_slots(self) -> Mapping[int, float]:
        """See Pace.slow."""
        return self._pace.slow() if self._pace else {}

    # What the hub tells, from the agents' threads.

    @property
    def is_over(self) -> bool:
        """Whether the ranks cannot go on."""
        return self._cause is not None

    def gone(self, slot: int) -> None:
        """Ranks that nobody has been introduced to can come back; others are lost, and all ranks with them."""
        with self._changed:
            self._others[slot] = _Remote(Counters.none(slot_extent(self._plan, slot)))
            if not self._introduced:
                return
        self._fail(SlotGone(f"slot {slot} is gone: its agent is not connected any more"))

    def leaving(self, slot: int) -> None:
        """Have the engine see to it."""
        del slot
        self._on_loss()

    def heard(self, slot: int, message: Message) -> None:
        """Note what an agent says of its ranks. Raises ProtocolError."""
        if message.kind is Kind.ENDED:
            self._fail(_failure(slot, message))
            return
        with self._changed:
            _note(self._others[slot], message, slot_extent(self._plan, slot))
            self._changed.notify_all()

    # Inside.

    def _figures(self) -> NDArray[np.int64]:
        """Of all ranks, `[world, columns]`."""
        others = [other.counters.figures for other in self._others.values()]
        return np.concatenate([self._local.figures(), *others])

    def _introduce(self, port: int) -> None:
        with self._changed:
            known = [other.address for other in self._others.values()]
            addresses = [address for address in known if address is not None]
            if len(addresses) < len(known):
                raise SlotGone("a slot went away while the ranks were starting")
            self._introduced = True
        peers = Peers(((self._address, port), *addresses), secrets.token_hex(32))
        self._local.introduce(peers)
        for slot in self._others:
            self._hub.tell(slot, Kind.PEERS, self.number, peers.to_json().encode())

    def _await(self, holds: Callable[[], bool], until: float) -> None:
        """Wait for what agents have still to say. Raises what ended the ranks, or SlotGone when time is up."""
        with self._changed:
            left = max(0.0, until - time.monotonic())
            in_time = self._changed.wait_for(lambda: self._cause is not None or holds(), left)
            if self._cause is not None:
                raise self._cause
        if not in_time:
            slots = self._hub.missing() or [slot for slot, other in self._others.items() if not other.ready]
            raise SlotGone(f"{listed(slots)} did not come, or did not go on, in time")

    @contextlib.contextmanager
    def _telling_why(self) -> Iterator[None]:
        try:
            yield
        except RuntimeFailure as failure:
            raise self._best_cause(failure) from None

    def _best_cause(self, failure: RuntimeFailure) -> RuntimeFailure:
        """What ended the ranks, or what is known of it after a moment."""
        if isinstance(failure, RanksCut):
            with self._changed:
                self._changed.wait_for(lambda: not isinstance(self._cause, RanksCut | None), CAUSE_S)
        return self._cause or failure

    def _lost_here(self) -> None:
        assert self._local.failure is not None
        self._fail(self._local.failure)

    def _fail(self, failure: RuntimeFailure) -> None:
        """The ranks cannot go on: keep the best cause, and wake whoever waits for them."""
        with self._changed:
            if self._cause is None or _weight(failure) > _weight(self._cause):
                self._cause = failure
            self._changed.notify_all()
        self._local.give_up(failure)
        self._on_loss()


def _ignore() -> None:
    """Nobody wants to know before it is asked for."""


def _weight(failure: RuntimeFailure) -> int:
    """How much a failure says about what happened: another slot's end, one's own, a bad start."""
    if isinstance(failure, RanksCut):
        return 0
    if isinstance(failure, SlotGone):
        return 1
    return 3 if isinstance(failure, RanksFailed) else 2


def _shards_of(slots: Slots) -> set[int]:
    """Shards of the ranks of a slot."""
    return {slots.layout.coordinate(rank).ep for rank in slots.ranks}


def _shards_that_answer(slots: Slots) -> set[int]:
    """Shards whose last-stage rank with tp 0 is in a slot."""
    return {ep for ep, slot in enumerate(slots.of_shard[-1]) if slot == slots.here}


def _note(other: _Remote, message: Message, extent: Extent) -> None:
    if message.kind is Kind.LISTENING:
        said = message.json()
        other.address = (str(said.get("host")), int(said.get("port") or 0))
    elif message.kind is Kind.READY:
        other.ready = True
    elif message.kind is Kind.ANSWERS:
        other.answers = read_answers(message.body)
    elif message.kind is Kind.FINISHED:
        other.counters, other.through = Counters.from_body(message.body, extent), True
    else:
        raise ProtocolError(f"an agent does not say {message.kind.name}")


def _failure(slot: int, message: Message) -> RuntimeFailure:
    said = message.json()
    try:
        report = Report(**said)
    except TypeError as error:
        raise ProtocolError(f"ENDED is no report: {error}") from error
    named = Report(
        report.kind, report.rank, report.cause if report.rank is not None else f"slot {slot}: {report.cause}"
    )
    return failure_of(named)
