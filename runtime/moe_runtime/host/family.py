"""The ranks of a slot and their gateway as a family of processes: prepared once, forked, watched, ended together."""

import gc
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, but not in __all__

from moe_plan.plan import Plan
from moe_runtime.checkpoint import open_weights
from moe_runtime.comm.peers import Peers, listen_at
from moe_runtime.comm.segment import Extent, Segment
from moe_runtime.errors import RuntimeFailure
from moe_runtime.host.channel import Channel
from moe_runtime.host.gateway import run_gateway
from moe_runtime.host.messages import Orders, Report, manner
from moe_runtime.host.rank import run_rank
from moe_runtime.host.seat import Seat
from moe_runtime.host.tier import Tier
from moe_runtime.host.voices import Voices, say, speak_into
from moe_runtime.logs import Speaker

_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM)


def prepare(orders: Orders, plan: Plan, tier: Tier, channel: Channel) -> Seat:
    """All that the family inherits. Raises RuntimeFailure when the checkpoint or the model cannot be served."""
    torch.set_num_threads(1)
    weights = open_weights(plan, Path(orders.checkpoint) if orders.checkpoint else None)
    listener = _listener(orders, tier)
    segment = Segment(Extent.of(plan), tier.slots) if tier.kind != "groups" else None
    channel.say_port(listener.getsockname()[1] if listener else 0)
    if listener and tier.slots.count == 1:
        channel.introduce(Peers((listener.getsockname()[:2],), ""))
    return Seat(plan, weights, channel, tier.slots, segment, listener, orders.device, orders.keep, os.getpid())


def _listener(orders: Orders, tier: Tier) -> socket.socket | None:
    """Where other slots' gateways meet this one's; of process groups, the socket of the store in the first slot."""
    if tier.kind == "memory" or (tier.kind == "groups" and tier.slots.here):
        return None
    try:
        return listen_at(orders.address)
    except OSError as error:
        raise RuntimeFailure(f"cannot listen at {orders.address} for the other slots: {error.strerror}") from error


class Family:
    """The ranks as processes. Made by the thread that lives longest: ranks die with it."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._members: dict[int, int] = {}
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the frontend decides
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        gc.collect()
        gc.freeze()  # or each rank's collector would touch, and so copy, what it inherited
        self._voices = Voices()
        self._speakers = _speakers(seat)
        for rank in seat.slots.ranks:
            self._fork(partial(run_rank, seat, rank))
        if seat.has_gateway:
            self._fork(partial(run_gateway, seat))
        self._voices.listen()
        self._store = _store(seat)

    def _fork(self, live: Callable[[], NoReturn]) -> None:
        member = len(self._members)
        hears, speaks = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(hears)
            speak_into(speaks)
            live()
        os.close(speaks)
        self._voices.add(self._speakers[member], hears)
        self._members[pid] = member

    def watch(self) -> Report | None:
        """Wait until SIGTERM, or until a rank ends: then the report of it. No rank is left."""
        while signal.sigwait(_SIGNALS) != signal.SIGTERM:
            ended = self._reap()
            if ended:
                self._end()
                return self._explain(ended)
        self._end()
        return None

    def _reap(self) -> dict[int, int]:
        """How each rank ended that has, by rank; as subprocess gives it."""
        ended = {}
        while self._members:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[self._members.pop(pid)] = os.waitstatus_to_exitcode(status)
        return ended

    def _end(self) -> None:
        for pid in self._members:
            os.kill(pid, signal.SIGKILL)
        while self._members:
            pid, _ = os.wait()
            self._members.pop(pid)
        self._voices.finish()

    def _explain(self, ended: dict[int, int]) -> Report:
        """The report of one member: that one was killed says more than that another missed it."""
        channel = self._seat.channel
        all_words = {member: channel.last_words(member) for member in ended}

        def likeness_to_a_consequence(member: int) -> tuple[bool, ...]:
            words = all_words[member]
            return ended[member] >= 0, words.get("kind") == "cut", not words

        member = min(sorted(ended), key=likeness_to_a_consequence)
        words, rank = all_words[member], self._rank(member)
        say(self._speakers[member], words.get("traceback", "").splitlines())
        if not words:
            return _lost(rank, manner(ended[member]))
        if words.get("kind") == "cut":
            return Report("cut", None, words["sentence"])
        if channel.is_ready() or words.get("kind") == "lost":
            return _lost(rank, f"stopped: {words['sentence']}")
        return Report("failed", None, words["sentence"])

    def _rank(self, member: int) -> int | None:
        """The rank of a member; None for the gateway."""
        ranks = self._seat.slots.ranks
        return ranks[member] if member < len(ranks) else None


def _speakers(seat: Seat) -> list[Speaker]:
    """Who each member is when it says something; without slots all ranks are in slot 0."""
    slots = seat.slots
    ranks = [Speaker.rank(slots.here, rank, slots.layout.coordinate(rank)) for rank in slots.ranks]
    return [*ranks, Speaker.gateway(slots.here)]


def _lost(rank: int | None, cause: str) -> Report:
    return Report("lost", rank, cause if rank is not None else f"the gateway {cause}")


def _store(seat: Seat) -> TCPStore | None:
    """The store at which process groups meet; it listens since before the ranks were forked."""
    if seat.segment is not None or seat.listener is None:
        return None
    host, port = seat.listener.getsockname()[:2]
    return TCPStore(
        host,
        port,
        seat.plan.degrees.world,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=seat.listener.detach(),
    )
