"""Ranks of one host talk through shared memory: a store, a count and a sleep, and never more wake-ups than needed.

Shape suffixes: T tokens of the shard, H hidden, K top_k, R rows at a rank's experts, P tp.

A MoE layer. The tokens of a micro-batch lie shard after shard in one table, since every rank knows how many each
shard has. Busy shards (those with tokens) store theirs, mark the ep coordinates that they chose (`flags`), and
arrive at `dispatched`. Ranks whose coordinate is marked find their rows, compute, store the results in slots that
nobody else writes, and arrive at `combined`; busy shards wait for as many as are marked and sum their slots. Ranks
that are neither busy nor marked sleep through any number of layers.

Why no store meets a reader of the layer before:
1. Tokens of layer n + 1 are stored by ranks that waited for all of `combined` n, where each reader had arrived.
2. Slots of layer n + 1 are stored after all of `dispatched` n + 1, where each tp rank of a busy shard arrives after
   it has read the slots of layer n.
3. Marks carry the micro-batch's number, have a row a layer, and so need no clearing.
4. `combined` has two counters. A busy rank clears one before it arrives at `dispatched` n; the last to look at that
   counter did so in layer n − 2, before they arrived at `dispatched` n − 1, which the clearing rank has waited for.
5. Before a micro-batch's first store, all ranks of the stage have arrived at `arrivals`, done with the one before.

Where a stage has ranks in several slots, each slot has such tables, and its gateway takes part in every count as the
rest of the world: always the last to arrive, and then the one that wakes and clears (see stage_bridge.py).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from moe_plan.layout import Coordinate
from moe_runtime.comm.base import Dispatched
from moe_runtime.comm.futex import LINE, Barrier, Word
from moe_runtime.comm.mailbox import DEADLINE_S, Mailbox
from moe_runtime.comm.segment import PIECE_BYTES, Segment

_WORD: Final = 0xFFFFFFFF
_MASK_BITS: Final = 32


class _Handle(NamedTuple):
    """What combine needs of a dispatch."""

    layer: int
    chosen: Tensor | None
    """[R] places in the stage's table of experts that chose this rank; None when none did."""


class _Busy(NamedTuple):
    """This shard's part of the stage's tables, while it has tokens."""

    hidden: Tensor
    """[T, H]"""
    experts: np.ndarray
    """[T, K]"""
    outputs: Tensor
    """[T, K, P·H]"""


class SharedMemory:
    """The Communicator of one rank among the ranks of its host."""

    def __init__(self, segment: Segment, rank: int) -> None:
        layout = segment.extent.layout
        here = layout.coordinate(rank)
        beyond = here._replace(pp=here.pp + 1)
        self._group = _Group(segment, here)
        self._stage = _Stage(segment, here)
        self._inbox = Mailbox(segment, here) if here.pp > 0 else None
        self._outbox = Mailbox(segment, beyond) if beyond.pp < layout.pp else None

    def begin(self, tokens: Sequence[int]) -> None:
        """What follows is a micro-batch with so many tokens on each shard, `[ep]`, at least one in all.

        Made by each rank of the replica, with the same numbers.
        """
        self._stage.begin(tokens)

    def end(self) -> None:
        """The micro-batch is done on this rank."""
        self._stage.end()

    def all_reduce(self, x: Tensor) -> Tensor:
        """See Communicator."""
        return self._group.all_reduce(x)

    def all_gather(self, x: Tensor) -> Tensor:
        """See Communicator."""
        return self._group.all_gather(x)

    def dispatch(self, hidden: Tensor, experts: Tensor) -> Dispatched:
        """See Communicator."""
        return self._stage.dispatch(hidden, experts)

    def combine(self, output: Tensor, dispatched: Dispatched, weights: Tensor) -> Tensor:
        """See Communicator."""
        return self._stage.combine(output, dispatched.handle, weights)

    def send(self, x: Tensor) -> None:
        """See Communicator."""
        assert self._outbox is not None, "the last stage has nobody to send to"
        if len(x):
            self._outbox.put(x)

    def receive(self, tokens: int) -> Tensor:
        """See Communicator."""
        assert self._inbox is not None, "the first stage has nobody to receive from"
        return self._inbox.take(tokens)

    def close(self) -> None:
        """Nothing to do: the memory goes with the process."""


class _Stage:
    """Dispatch and combine."""

    def __init__(self, segment: Segment, here: Coordinate) -> None:
        extent = segment.extent
        area = segment.stages[here.pp]
        layout = extent.layout
        rows, tp, top_k = layout.ep * extent.max_tokens, layout.tp, extent.top_k
        self._extent = extent
        self._here = here
        self._ring = segment.ring
        self._outside = int(bool(segment.slots.others(here.pp)))
        self._shards = list(segment.slots.shards_here(here.pp))
        self._tells = bool(self._outside) and here.ep == self._shards[0] and here.tp == 0
        self._tokens = segment.array(area.tokens, np.int64, layout.ep)
        self._first_expert = here.ep * extent.experts_per_rank
        self._arrivals = Barrier(segment.memory, area.arrivals, len(self._shards) * tp + self._outside)
        self._dispatched = Word(segment.memory, area.dispatched)
        self._combined = tuple(Word(segment.memory, area.combined + LINE * turn) for turn in range(2))
        self._flags = segment.array(area.flags, np.uint32, extent.layers, layout.ep)
        self._experts = segment.array(area.experts, np.int32, rows, top_k)
        self._hidden = segment.tensor(area.hidden, extent.dtype, rows, extent.hidden)
        self._outputs = segment.tensor(area.outputs, extent.dtype, rows, top_k, tp * extent.hidden)
        self._my_outputs = self._outputs.view(rows * top_k, tp, extent.hidden)[:, here.tp]
        self._bits = np.left_shift(np.uint32(1), np.arange(layout.ep, dtype=np.uint32) % _MASK_BITS)
        self._my_bit = int(self._bits[here.ep])
        self._nothing = torch.empty(0, extent.hidden, dtype=extent.dtype)
        self._no_rows = [0] * extent.experts_per_rank
        self._number = 0
        self._layer = 0
        self._expected = 0
        self._arriving = 0
        self._busy: _Busy | None = None
        self._leads = False
        self._busy_mask = 0
        self._chosen: np.ndarray = np.empty(0)

    def begin(self, tokens: Sequence[int]) -> None:
        extent, ep = self._extent, self._here.ep
        assert max(tokens) <= extent.max_tokens, "the schedule admits no more tokens than the plan does"
        busy = [shard for shard in self._shards if tokens[shard]]
        self._number = (self._number + 1) & _WORD
        self._layer = 0
        self._arriving = len(busy) * extent.layout.tp + self._outside
        start = sum(islice(tokens, ep))
        total = start + sum(islice(tokens, ep, None))
        self._chosen = self._experts[:total].reshape(-1)
        self._busy = self._part(start, tokens[ep]) if tokens[ep] else None
        self._leads = not self._outside and ep == busy[0] and self._here.tp == 0
        self._busy_mask = int(np.bitwise_or.reduce(self._bits[busy]))
        if self._tells:
            self._tokens[:] = tokens
        self._arrivals.arrive()
        if self._outside and self._arrivals.lacks(1):
            self._ring()
        if self._busy:
            self._arrivals.wait("the start of a micro-batch", DEADLINE_S)
        if self._leads:
            self._arrivals.clear()

    def _part(self, start: int, tokens: int) -> _Busy:
        mine = slice(start, start + tokens)
        return _Busy(self._hidden[mine], self._experts[mine], self._outputs[mine])

    def end(self) -> None:
        if self._leads:
            self._dispatched.wake()  # those that slept through the last layers

    def dispatch(self, hidden: Tensor, experts: Tensor) -> Dispatched:
        layer = self._layer
        self._layer += 1
        self._expected = (self._expected + self._arriving) & _WORD
        flags = self._flags[layer]
        if self._busy is not None:
            self._store(self._busy, hidden, experts, layer)
        self._dispatched.wait(self._expected, "dispatch", DEADLINE_S, self._my_bit)
        if flags[self._here.ep] != self._number:
            return Dispatched(self._nothing, self._no_rows, _Handle(layer, None))
        return self._rows(layer)

    def _store(self, busy: _Busy, hidden: Tensor, experts: Tensor, layer: int) -> None:
        flags = self._flags[layer]
        if self._here.tp == 0:
            chosen = experts.numpy()
            busy.hidden.copy_(hidden)
            busy.experts[:] = chosen
            flags[chosen // self._extent.experts_per_rank] = self._number
        if self._leads:
            self._combined[layer & 1].write(0)
        self._dispatched.add()
        if not self._dispatched.reached((self._expected - self._outside) & _WORD):
            return
        if self._outside:
            self._ring()
        else:
            self._dispatched.wake(int(np.bitwise_or.reduce(self._bits[flags == self._number])) | self._busy_mask)

    def _rows(self, layer: int) -> Dispatched:
        per_rank = self._extent.experts_per_rank
        if per_rank == 1:
            (chosen,) = (self._chosen == self._first_expert).nonzero()
            counts = [len(chosen)]
        else:
            local = self._chosen - self._first_expert
            (chosen,) = (local.view(np.uint32) < per_rank).nonzero()
            local = local[chosen]
            chosen = chosen[local.argsort(kind="stable")]
            counts = np.bincount(local, minlength=per_rank).tolist()
        hidden = self._hidden.index_select(0, torch.from_numpy(chosen // self._extent.top_k))
        return Dispatched(hidden, counts, _Handle(layer, torch.from_numpy(chosen)))

    def combine(self, output: Tensor, handle: _Handle, weights: Tensor) -> Tensor:
        if self._busy is None and handle.chosen is None:
            return self._nothing
        word = self._combined[handle.layer & 1]
        marked = np.count_nonzero(self._flags[handle.layer][self._shards] == self._number)
        expected = int(marked) * self._extent.layout.tp + self._outside
        if handle.chosen is not None:
            self._my_outputs.index_copy_(0, handle.chosen, output)
            self._arrive_combined(word, expected)
        if self._busy is None:
            return self._nothing
        word.wait(expected, "combine", DEADLINE_S)
        return self._sum(self._busy.outputs, weights)

    def _arrive_combined(self, word: Word, expected: int) -> None:
        if not self._outside:
            word.arrive(expected)
            return
        word.add()
        if word.reached(expected - 1):
            self._ring()

    def _sum(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """[T, H], weighted over K and summed over P."""
        x = torch.bmm(weights.to(outputs.dtype).unsqueeze(1), outputs)
        if self._extent.layout.tp == 1:
            return x.squeeze(1)
        return x.view(len(weights), self._extent.layout.tp, self._extent.hidden).sum(1)


class _Group:
    """Collectives over the tp ranks of a shard.

    A rank stores its part of a tensor, piece by piece, and after a barrier reads everybody's. Two buffers take
    turns: a buffer is stored to again after the next barrier, at which everybody arrives done with reading it.
    """

    def __init__(self, segment: Segment, here: Coordinate) -> None:
        area = segment.shard(here)
        self._tp = segment.extent.layout.tp
        self._member = here.tp
        self._barrier = Barrier(segment.memory, area.barrier, self._tp)
        self._bytes = segment.tensor(area.pieces, torch.uint8, 2, self._tp, PIECE_BYTES)
        self._turn = 0
        self._views: dict[tuple[int, torch.dtype, int], tuple[Tensor, ...]] = {}

    def all_reduce(self, x: Tensor) -> Tensor:
        if self._tp == 1 or x.numel() == 0:
            return x
        x = x.contiguous()
        for piece in self._pieces(x):
            parts = self._exchange(piece)
            torch.add(parts[0], parts[1], out=piece)
            for part in parts[2:]:
                piece.add_(part)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        if self._tp == 1:
            return x
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], x.shape[-1] * self._tp)
        pieces = [torch.stack(self._exchange(piece)) for piece in self._pieces(x.contiguous())]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        return torch.cat(whole.view(self._tp, *x.shape).unbind(), dim=-1)

    def _pieces(self, x: Tensor) -> Sequence[Tensor]:
        return torch.split(x.view(-1), PIECE_BYTES // x.itemsize)

    def _exchange(self, piece: Tensor) -> tuple[Tensor, ...]:
        """The same piece of each tp rank, in order; to be read before the next but one exchange."""
        self._turn ^= 1
        parts = self._parts(piece)
        parts[self._member].copy_(piece)
        self._barrier.arrive()
        self._barrier.wait("a collective of the tp group", DEADLINE_S)
        if self._member == 0:
            self._barrier.clear()
        return parts

    def _parts(self, piece: Tensor) -> tuple[Tensor, ...]:
        """Where each tp rank's piece lies: views are kept, since a decode asks for the same ones again and again."""
        key = (self._turn, piece.dtype, piece.numel())
        if key not in self._views:
            if len(self._views) > 64:
                self._views.clear()
            stored = self._bytes[self._turn].view(piece.dtype)
            self._views[key] = tuple(part[: piece.numel()] for part in stored.unbind())
        return self._views[key]
