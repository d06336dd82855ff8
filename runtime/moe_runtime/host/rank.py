"""One rank's life: die with the parent, take a share of the weights, compute steps until told otherwise."""

import logging
from time import perf_counter_ns
from typing import Final, NoReturn

import torch

from moe_plan.layout import Layout
from moe_runtime.comm.base import Communicator
from moe_runtime.comm.distributed import Distributed, Rendezvous
from moe_runtime.comm.segment import Extent
from moe_runtime.comm.shared_memory import SharedMemory
from moe_runtime.errors import RuntimeFailure
from moe_runtime.executor import Executor
from moe_runtime.host.figures import MEMORY_BYTES
from moe_runtime.host.measured import Measured
from moe_runtime.host.memory import Memory
from moe_runtime.host.seat import Seat, live, moe_layers_of

WEIGHED_EVERY_NS: Final = 1_000_000_000
"""Time between two looks at a rank's memory."""

log = logging.getLogger(__name__)

PEERS_DEADLINE_S: Final = 3600.0
"""Longest wait for slots that have still to start; who drives the ranks gives up before."""


def run_rank(seat: Seat, rank: int) -> NoReturn:
    """Be a rank, in a process forked for it. Never returns."""
    member = seat.slots.ranks.index(rank)
    live(seat, member, lambda: _Rank(seat, rank).serve())


class _Rank:
    """A rank with its weights."""

    def __init__(self, seat: Seat, rank: int) -> None:
        plan, device = seat.plan, _device(seat, rank)
        self._memory = Memory(device)
        layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
        self._seat = seat
        self._here = layout.coordinate(rank)
        self._answers = self._here.pp == layout.pp - 1 and self._here.tp == 0
        member = seat.slots.ranks.index(rank)
        rows = seat.channel.expert_rows[member] if self._here.tp == 0 else None
        self._figures, moe_layers = seat.channel.figures[member], moe_layers_of(seat, self._here.pp)
        self._communicator = Measured(_communicator(seat, rank), self._figures, rows, moe_layers)
        self._executor = Executor(plan, rank, self._communicator, seat.weights, device)
        self._weighed_ns = 0

    def serve(self) -> NoReturn:
        """Compute every step that is posted."""
        channel, shard = self._seat.channel, self._here.ep
        self._weigh()
        log.debug("ready, with %.0f MB of memory", self._figures[MEMORY_BYTES] / 1e6)
        channel.say_ready()
        posted = 0
        while True:
            batches = channel.next_step(posted, shard)
            posted += 1
            started = perf_counter_ns()
            sampled = self._executor.run(batches)
            if self._answers and any(batch.chunks for batch in batches):
                if self._seat.keep == "logits" and sampled:
                    channel.show_logits(shard, self._executor.logits.cpu().numpy())
                channel.answer(shard, sampled)
            ended = perf_counter_ns()
            self._communicator.flush(ended - started)
            if ended > self._weighed_ns + WEIGHED_EVERY_NS:
                self._weighed_ns = ended
                self._weigh()
            channel.finish()

    def _weigh(self) -> None:
        self._figures[MEMORY_BYTES] = self._memory.taken_bytes()


def _communicator(seat: Seat, rank: int) -> Communicator:
    if seat.segment is not None:
        return SharedMemory(seat.segment, rank)
    host, port = seat.channel.await_peers(PEERS_DEADLINE_S).addresses[0]
    return Distributed(Rendezvous(host, port), Extent.of(seat.plan), rank, _device(seat, rank))


def _device(seat: Seat, rank: int) -> str:
    if seat.device == "cpu":
        return "cpu"
    local = rank % seat.plan.ranks_per_slot
    if local >= torch.cuda.device_count():
        raise RuntimeFailure(
            f"the plan wants {seat.plan.ranks_per_slot} GPUs on this machine, and it has {torch.cuda.device_count()}"
        )
    return f"cuda:{local}"
