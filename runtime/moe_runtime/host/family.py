"""The ranks of a host as a family of processes: prepared once, forked, watched, and ended together."""

import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, but not in __all__

from moe_plan.plan import Plan
from moe_runtime.checkpoint import open_weights
from moe_runtime.comm.segment import Extent, Segment
from moe_runtime.host.channel import Channel
from moe_runtime.host.messages import Orders, Report, manner
from moe_runtime.host.rank import Seat, run_rank

_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM)
_HERE: Final = "127.0.0.1"


def prepare(orders: Orders, plan: Plan, channel: Channel) -> Seat:
    """All that ranks inherit. Raises RuntimeFailure when the checkpoint or the model cannot be served."""
    torch.set_num_threads(1)
    weights = open_weights(plan, Path(orders.checkpoint) if orders.checkpoint else None)
    meeting: Segment | socket.socket
    meeting = Segment(Extent.of(plan)) if orders.device == "cpu" else socket.create_server((_HERE, 0))
    return Seat(plan, weights, channel, meeting, orders.device, orders.keep, os.getpid())


class Family:
    """The ranks as processes. Made by the thread that lives longest: ranks die with it."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._ranks: dict[int, int] = {}
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the frontend decides
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        gc.collect()
        gc.freeze()  # or each rank's collector would touch, and so copy, what it inherited
        for rank in range(seat.plan.degrees.world):
            pid = os.fork()
            if pid == 0:
                run_rank(seat, rank)
            self._ranks[pid] = rank
        self._store = _store(seat)

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
        while self._ranks:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[self._ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
        return ended

    def _end(self) -> None:
        for pid in self._ranks:
            os.kill(pid, signal.SIGKILL)
        while self._ranks:
            pid, _ = os.wait()
            self._ranks.pop(pid)

    def _explain(self, ended: dict[int, int]) -> Report:
        """The report of one of the ranks: that one was killed says more than that another missed it."""
        channel = self._seat.channel
        rank = min(ended, key=lambda rank: (ended[rank] >= 0, not channel.last_words(rank), rank))
        words = channel.last_words(rank)
        if "traceback" in words:
            sys.stderr.write(f"rank {rank}: {words['traceback']}\n")
        if not words:
            return Report("lost", rank, manner(ended[rank]))
        if channel.is_ready():
            return Report("lost", rank, f"stopped: {words['sentence']}")
        return Report("failed", None, words["sentence"])


def _store(seat: Seat) -> TCPStore | None:
    """The store at which ranks without shared memory meet; it listens since before they were forked."""
    if isinstance(seat.meeting, Segment):
        return None
    listener = seat.meeting
    port = listener.getsockname()[1]
    return TCPStore(
        _HERE, port, seat.plan.degrees.world, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
