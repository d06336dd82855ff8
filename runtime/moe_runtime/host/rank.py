"""One rank's life: die with the parent, take a share of the weights, compute steps until told otherwise."""

import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from time import perf_counter_ns
from typing import NoReturn

import torch

from moe_plan.layout import Layout
from moe_plan.plan import Plan
from moe_runtime.checkpoint import Weights
from moe_runtime.comm.base import Communicator
from moe_runtime.comm.distributed import Distributed, Rendezvous
from moe_runtime.comm.futex import die_with_parent
from moe_runtime.comm.segment import Extent, Segment
from moe_runtime.comm.shared_memory import SharedMemory
from moe_runtime.errors import RuntimeFailure
from moe_runtime.executor import Executor
from moe_runtime.host.channel import Channel
from moe_runtime.host.measured import Measured
from moe_runtime.host.messages import Device, Keep
from moe_runtime.models.spec import MoeSpec


@dataclass(frozen=True, slots=True)
class Seat:
    """What the ranks of a host have in common. Made before they are forked."""

    plan: Plan
    weights: Weights
    channel: Channel
    meeting: Segment | socket.socket
    """Memory that ranks share; or the socket of the store at which their process groups meet."""
    device: Device
    keep: Keep
    parent: int


def run_rank(seat: Seat, rank: int) -> NoReturn:
    """Be a rank, in a process forked for it. Never returns."""
    try:
        _become_rank(seat)
        _Rank(seat, rank).serve()
    except RuntimeFailure as failure:
        seat.channel.leave_last_words(rank, {"sentence": str(failure)})
    except BaseException as error:  # noqa: BLE001  # the parent tells it on
        seat.channel.leave_last_words(
            rank, {"sentence": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        )
    finally:
        os._exit(1)  # what the parent had open is not this process's to flush or close


def _become_rank(seat: Seat) -> None:
    die_with_parent(seat.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the frontend decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # standard output is the parent's line to the frontend
    torch.set_num_threads(1)


class _Rank:
    """A rank with its weights."""

    def __init__(self, seat: Seat, rank: int) -> None:
        plan = seat.plan
        layout = Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)
        self._seat = seat
        self._here = layout.coordinate(rank)
        self._answers = self._here.pp == layout.pp - 1 and self._here.tp == 0
        rows = seat.channel.expert_rows[rank] if self._here.tp == 0 else None
        times_ns, moe_layers = seat.channel.times_ns[rank], _moe_layers(seat, self._here.pp)
        self._communicator = Measured(_communicator(seat, rank), times_ns, rows, moe_layers)
        self._executor = Executor(plan, rank, self._communicator, seat.weights, _device(seat, rank))

    def serve(self) -> NoReturn:
        """Compute every step that is posted."""
        channel, shard = self._seat.channel, self._here.ep
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
                busy = {s for batch in batches for s, tokens in enumerate(batch.tokens) if tokens}
                channel.answer(shard, sampled, len(busy))
            self._communicator.flush(perf_counter_ns() - started)
            channel.finish()


def _moe_layers(seat: Seat, pp: int) -> list[int]:
    """Positions within a stage of its MoE layers."""
    stage = seat.plan.stages[pp]
    layers = seat.weights.spec.layers[stage.first_layer : stage.first_layer + stage.layers]
    return [position for position, layer in enumerate(layers) if isinstance(layer.ffn, MoeSpec)]


def _communicator(seat: Seat, rank: int) -> Communicator:
    if isinstance(seat.meeting, Segment):
        return SharedMemory(seat.meeting, rank)
    return Distributed(Rendezvous(*seat.meeting.getsockname()), Extent.of(seat.plan), rank, _device(seat, rank))


def _device(seat: Seat, rank: int) -> str:
    if seat.device == "cpu":
        return "cpu"
    local = rank % seat.plan.ranks_per_slot
    if local >= torch.cuda.device_count():
        raise RuntimeFailure(
            f"the plan wants {seat.plan.ranks_per_slot} GPUs on this machine, and it has {torch.cuda.device_count()}"
        )
    return f"cuda:{local}"
