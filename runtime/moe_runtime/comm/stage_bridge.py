"""The rest of the world in one slot's tables of a stage: what its ranks dispatch and combine, to other slots and back.

A gateway runs a bridge for each stage that has ranks in its slot and in others. To the ranks it is one more arrival at
each count, always the last. Pods talk to pods: a layer costs a message to each other slot, whatever the ranks in it.

A layer, in the slot of a busy shard:
1. Its busy shards have stored their tokens. Each other slot gets all the experts that these chose, and the hidden
   states of those tokens that chose experts there.
2. What other busy slots sent is stored, and the experts here that they chose are marked. The bridge arrives at
   `dispatched`.
3. The marked ranks here have stored their outputs. Each other busy slot gets those of its tokens.
4. The outputs that other slots made of the tokens here are stored. The bridge arrives at `combined`.

So nobody here stores to what the bridge has still to copy: ranks pass both counts after it. Messages of a slot come in
the order in which they are waited for. The sums over tp and top_k are left to the busy shard, in the order in which it
makes them where all ranks are in one slot: the bits are the same.

Shape suffixes: T tokens of a slot's busy shards, K top_k.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moe_runtime.comm.futex import LINE, Barrier, Word
from moe_runtime.comm.link import Frame, Kind, Outbox
from moe_runtime.comm.segment import Segment
from moe_runtime.errors import ProtocolError

_WORD: Final = 0xFFFFFFFF
_MASK_BITS: Final = 32

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one slot's tokens want of another slot's experts, as rows of the stage's tables."""

    tokens: Rows
    """Rows of the tokens that chose an expert there."""
    outputs: Rows
    """Rows of the (token, k) pairs that did, `[rows · K]`."""


class StageBridge:
    """The part of one gateway in one stage."""

    def __init__(self, segment: Segment, pp: int, layers: int, outbox: Outbox) -> None:
        """`layers` are the stage's MoE layers."""
        extent, area, slots = segment.extent, segment.stages[pp], segment.slots
        tp, ep, rows = extent.layout.tp, extent.layout.ep, extent.layout.ep * extent.max_tokens
        self._pp, self._layers, self._tp = pp, layers, tp
        self._here, self._others = slots.here, slots.others(pp)
        self._shards = np.array(slots.shards_here(pp))
        self._outbox = outbox
        self._slot_of_expert = np.repeat(slots.of_shard[pp], extent.experts_per_rank)
        self._slot_of_shard = np.array(slots.of_shard[pp])
        self._per_rank, self._top_k = extent.experts_per_rank, extent.top_k
        self._bits = np.left_shift(np.uint32(1), np.arange(ep, dtype=np.uint32) % _MASK_BITS)
        self._arrivals = Barrier(segment.memory, area.arrivals, len(self._shards) * tp + 1)
        self._dispatched = Word(segment.memory, area.dispatched)
        self._combined = tuple(Word(segment.memory, area.combined + LINE * turn) for turn in range(2))
        self._flags = segment.array(area.flags, np.uint32, extent.layers, ep)
        self._tokens = segment.array(area.tokens, np.int64, ep)
        self._experts = segment.array(area.experts, np.int32, rows, extent.top_k)
        self._hidden = segment.array(area.hidden, np.uint8, rows, extent.row_bytes)
        self._outputs = segment.array(area.outputs, np.uint8, rows * extent.top_k, tp * extent.row_bytes)
        self._inbox: dict[int, deque[Frame]] = {slot: deque() for slot in self._others}
        self._number = 0
        self._expected = 0
        self._busy_shards = self._marked = self._shards[:0]
        self._busy_others: list[int] = []
        self._leaving: dict[int, _Wanted] = {}
        self._arriving: dict[int, _Wanted] = {}
        self._rows: dict[int, Rows] = {}
        self._life = self._live()

    def deliver(self, source: int, frame: Frame) -> None:
        """A message of another slot about this stage."""
        if source not in self._inbox:
            raise ProtocolError(f"slot {source} has no ranks in stage {self._pp}, and sent rows of it")
        self._inbox[source].append(frame)

    def advance(self) -> None:
        """Do all that can be done before ranks or other slots have gone on."""
        next(self._life)

    def _live(self) -> Iterator[None]:
        while True:
            yield from self._begin()
            for layer in range(self._layers):
                yield from self._dispatch(layer)
                yield from self._combine(layer)
            self._dispatched.wake()  # those that slept through the last layers
            self._outbox.flush()

    def _begin(self) -> Iterator[None]:
        """Wait for the ranks here to begin a micro-batch, and see which shards are busy in it."""
        self._number = (self._number + 1) & _WORD
        self._arrivals.arrive()
        while not self._arrivals.lacks(0):
            yield
        self._arrivals.clear()
        tokens = self._tokens.copy()
        starts = tokens.cumsum() - tokens
        self._busy_shards = self._shards[tokens[self._shards] > 0]
        busy_slots = set(self._slot_of_shard[tokens > 0].tolist())
        self._busy_others = sorted(busy_slots - {self._here})
        self._rows = {
            slot: np.concatenate(
                [np.arange(starts[ep], starts[ep] + tokens[ep]) for ep in np.flatnonzero(self._slot_of_shard == slot)]
            )
            for slot in busy_slots
        }

    def _dispatch(self, layer: int) -> Iterator[None]:
        self._leaving.clear()
        self._arriving.clear()
        if len(self._busy_shards):
            self._expected = (self._expected + len(self._busy_shards) * self._tp) & _WORD
            while not self._dispatched.reached(self._expected):
                yield
            for slot in self._others:
                self._leaving[slot] = self._send_tokens(layer, slot)
        for slot in self._busy_others:
            while not self._inbox[slot]:
                yield
            self._arriving[slot] = self._store_tokens(layer, slot)
        self._marked = self._shards[self._flags[layer, self._shards] == self._number]
        self._arrive_dispatched(layer)

    def _combine(self, layer: int) -> Iterator[None]:
        combined = self._combined[layer & 1]
        while not combined.reached(len(self._marked) * self._tp):
            yield
        for slot, wanted in self._arriving.items():
            if len(wanted.outputs):
                self._outbox.post(slot, Kind.COMBINE, (self._pp, self._number, layer), self._outputs[wanted.outputs])
        for slot, wanted in self._leaving.items():
            while len(wanted.outputs) and not self._inbox[slot]:
                yield
            if len(wanted.outputs):
                self._store_outputs(layer, slot, wanted)
        combined.add_and_wake()

    def _send_tokens(self, layer: int, slot: int) -> _Wanted:
        rows = self._rows[self._here]
        experts = self._experts[rows]
        wanted = self._wanted(rows, experts, slot)
        where = (self._pp, self._number, layer)
        # Only while no other slot is busy does nobody wait for what that slot does in this layer.
        post = self._outbox.post if len(wanted.tokens) or self._busy_others else self._outbox.post_later
        post(slot, Kind.DISPATCH, where, experts, self._hidden[wanted.tokens])
        return wanted

    def _store_tokens(self, layer: int, slot: int) -> _Wanted:
        rows = self._rows[slot]
        payload = self._next(slot, Kind.DISPATCH, layer)
        size = len(rows) * self._top_k * self._experts.itemsize
        experts = np.frombuffer(_exactly(payload[:size], size), np.int32).reshape(-1, self._top_k)
        wanted = self._wanted(rows, experts, self._here)
        self._experts[rows] = experts
        self._hidden[wanted.tokens] = _matrix(payload[size:], len(wanted.tokens), self._hidden.shape[1])
        self._flags[layer, experts // self._per_rank] = self._number
        return wanted

    def _wanted(self, rows: Rows, experts: NDArray[np.int32], slot: int) -> _Wanted:
        """`rows` [T] and their `experts` [T, K]."""
        chosen = self._slot_of_expert[experts] == slot
        outputs = (rows[:, None] * self._top_k + np.arange(self._top_k))[chosen]
        return _Wanted(rows[chosen.any(1)], outputs)

    def _arrive_dispatched(self, layer: int) -> None:
        """Let the ranks go on that have anything to do."""
        self._combined[layer & 1].write(0)
        self._dispatched.add()
        self._expected = (self._expected + 1) & _WORD
        mask = int(np.bitwise_or.reduce(self._bits[np.concatenate((self._marked, self._busy_shards))]))
        if mask:
            self._dispatched.wake(mask)

    def _store_outputs(self, layer: int, slot: int, wanted: _Wanted) -> None:
        payload = self._next(slot, Kind.COMBINE, layer)
        self._outputs[wanted.outputs] = _matrix(payload, len(wanted.outputs), self._outputs.shape[1])

    def _next(self, slot: int, kind: Kind, layer: int) -> memoryview:
        frame = self._inbox[slot].popleft()
        if (frame.kind, frame.where) != (kind, (self._pp, self._number, layer)):
            raise ProtocolError(
                f"slot {slot} sent {frame.kind.name} of {frame.where}, "
                f"and {kind.name} of {(self._pp, self._number, layer)} was due"
            )
        return frame.payload


def _matrix(payload: memoryview, rows: int, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(_exactly(payload, rows * width), np.uint8).reshape(rows, width)


def _exactly(payload: memoryview, size: int) -> memoryview:
    if len(payload) != size:
        raise ProtocolError(f"another slot sent {len(payload)} bytes where {size} were due")
    return payload
