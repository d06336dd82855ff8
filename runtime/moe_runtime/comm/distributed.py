"""Ranks talk through torch.distributed: NCCL between GPUs, gloo between CPUs where tp goes across slots.

The tp ranks of a shard hold the same tokens, so dispatch and combine run once for each tp coordinate, among its ep
ranks; the sum over tp comes last. Rows travel sorted by physical expert; a first exchange tells how many.

Shape suffixes: T tokens of the shard, H hidden, K top_k, R rows at a rank's experts.
"""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, but not in __all__

from moe_runtime.comm.base import Dispatched
from moe_runtime.comm.segment import Extent

DEADLINE: Final = timedelta(seconds=300)
"""Longest wait for another rank."""
IN_FLIGHT: Final = 2
"""Sends to the next stage that may be unfinished."""


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where the ranks of a replica meet: a TCP store."""

    host: str
    port: int


class _Handle(NamedTuple):
    """What combine needs of a dispatch."""

    order: Tensor
    """[T·K]: the (token, k) pairs in the order in which their rows were sent."""
    grouping: Tensor
    """[R]: the rows as they arrived, in the order of the local experts."""
    sent: list[int]
    """Rows to each ep coordinate."""
    received: list[int]
    """Rows from each ep coordinate."""


class Distributed:
    """The Communicator of one rank of a replica whose ranks may be anywhere."""

    def __init__(self, meeting: Rendezvous, extent: Extent, rank: int, device: str) -> None:
        layout = self._layout = extent.layout
        here = layout.coordinate(rank)
        self._extent = extent
        self._device = torch.device(device)
        self._join(meeting, rank)
        self._tp = _group(layout.group(("tp",), rank))
        self._ep = _group(tuple(layout.rank(here._replace(ep=ep)) for ep in range(layout.ep)))
        self._before = layout.rank(here._replace(pp=(here.pp - 1) % layout.pp))
        self._beyond = layout.rank(here._replace(pp=(here.pp + 1) % layout.pp))
        self._sending: deque[tuple[dist.Work | None, Tensor]] = deque()

    def _join(self, meeting: Rendezvous, rank: int) -> None:
        world = self._layout.world
        if meeting.host.startswith("127."):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = TCPStore(meeting.host, meeting.port, world, is_master=False, timeout=DEADLINE)
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(self._device)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=DEADLINE)

    def begin(self, tokens: Sequence[int]) -> None:
        """See Communicator."""

    def end(self) -> None:
        """See Communicator."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """See Communicator."""
        if self._layout.tp == 1 or x.numel() == 0:
            return x
        x = x.contiguous()
        dist.all_reduce(x, group=self._tp)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """See Communicator."""
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self._layout.tp)]
        if x.numel():
            dist.all_gather(parts, x.contiguous(), group=self._tp)
        return torch.cat(parts, dim=-1)

    def dispatch(self, hidden: Tensor, experts: Tensor) -> Dispatched:
        """See Communicator."""
        per_rank, ep = self._extent.experts_per_rank, self._layout.ep
        flat = experts.reshape(-1)
        order = flat.argsort(stable=True)
        leaving = torch.bincount(flat, minlength=ep * per_rank)
        arriving = torch.empty_like(leaving)
        dist.all_to_all_single(arriving, leaving, group=self._ep)
        arriving = arriving.view(ep, per_rank)
        sent, received = leaving.view(ep, per_rank).sum(1).tolist(), arriving.sum(1).tolist()
        rows = self._exchange(hidden[order // self._extent.top_k], received, sent)
        local = torch.arange(per_rank, device=flat.device).repeat(ep).repeat_interleave(arriving.view(-1))
        grouping = local.argsort(stable=True)
        return Dispatched(rows[grouping], arriving.sum(0).tolist(), _Handle(order, grouping, sent, received))

    def combine(self, output: Tensor, dispatched: Dispatched, weights: Tensor) -> Tensor:
        """See Communicator."""
        handle: _Handle = dispatched.handle
        arrived = torch.empty_like(output).index_copy_(0, handle.grouping, output)
        back = self._exchange(arrived, handle.sent, handle.received)
        slots = torch.empty_like(back).index_copy_(0, handle.order, back)
        slots = slots.view(*weights.shape, output.shape[-1])
        x = torch.bmm(weights.to(output.dtype).unsqueeze(1), slots).squeeze(1)
        return self.all_reduce(x)

    def _exchange(self, rows: Tensor, arriving: list[int], leaving: list[int]) -> Tensor:
        """All-to-all over ep of rows, so many from and to each ep coordinate."""
        result = rows.new_empty(sum(arriving), rows.shape[-1])
        dist.all_to_all_single(result, rows.contiguous(), arriving, leaving, group=self._ep)
        return result

    def send(self, x: Tensor) -> None:
        """See Communicator."""
        if not len(x):
            return
        self._finish_sends(IN_FLIGHT - 1)
        x = x.contiguous()
        self._sending.append((dist.isend(x, self._beyond), x))

    def receive(self, tokens: int) -> Tensor:
        """See Communicator."""
        x = torch.empty(tokens, self._extent.hidden, dtype=self._extent.dtype, device=self._device)
        if tokens:
            dist.recv(x, self._before)
        return x

    def close(self) -> None:
        """See Communicator."""
        if dist.is_initialized():
            self._finish_sends(0)
            dist.destroy_process_group()

    def _finish_sends(self, but: int) -> None:
        while len(self._sending) > but:
            work, _ = self._sending.popleft()
            if work is not None:
                work.wait()


def _group(ranks: tuple[int, ...]) -> dist.ProcessGroup:
    """A process group that only its members make."""
    group = dist.new_group(list(ranks), timeout=DEADLINE, use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)
    return group
