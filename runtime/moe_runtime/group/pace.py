"""Which slot is slow: each rank's own share of a step, held against that of ranks with the same work.

A rank's own share is its time outside collectives and outside its experts, whose load is uneven by nature: attention,
norms, dense layers, head. Ranks have the same work when they are of the same stage and their shards computed about as
many tokens (as a power of two), over about as much context, in as many micro-batches. A slot's pace is the sum of its
ranks' shares over the sum of the medians of that work; of the last WINDOW_S in PARTS parts the median, so that a hiccup
does not name a slot; relative to the lower median of all slots. Slots whose work nobody shares have no pace.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_plan.layout import Layout
from moe_plan.plan import Plan
from moe_runtime.host.figures import own_share_ns
from moe_runtime.step import Step

WINDOW_S: Final = 30.0
PARTS: Final = 6
LEAST_STEPS: Final = 5
"""Steps in which a slot must have shared its work with others, in a part, for the part to count."""
MOST_STEPS: Final = 600
"""Steps of the window that are kept, evenly."""
SLOW: Final = 1.6
"""Pace from which a slot is called slow,"""
NO_LONGER_SLOW: Final = 1.3
"""and below which it is no longer."""

Work = tuple[int, int, int, int]
"""Stage, micro-batches, and the powers of two of tokens and of context."""


class _Observed(NamedTuple):
    """One step: an entry for each slot and work that some of its ranks had."""

    at: float
    slots: NDArray[np.int64]
    works: NDArray[np.int64]
    ranks: NDArray[np.int64]
    own_ns: NDArray[np.float64]
    """Sum over these ranks."""


class Pace:
    """The paces of a replica's slots. One thread at a time may begin steps; any may ask."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        degrees = plan.degrees
        layout = Layout(degrees.ep, degrees.tp, degrees.pp, plan.rank_order)
        self._coordinates = [layout.coordinate(rank) for rank in range(layout.world)]
        self._slots = np.arange(layout.world) // plan.ranks_per_slot
        self._count = plan.slots
        self._clock = clock
        self._lock = threading.Lock()
        self._observed: deque[_Observed] = deque()
        self._numbers: dict[Work, int] = {}
        self._before = np.zeros(layout.world, np.int64)
        self._works = np.full(layout.world, -1)
        self._named: frozenset[int] = frozenset()

    def begin(self, step: Step, figures: NDArray[np.int64]) -> None:
        """A step begins; `figures` [world, columns] are what the ranks had counted at the end of the one before."""
        own_ns, now = own_share_ns(figures), self._clock()
        with self._lock:
            self._observe(now, own_ns - self._before)
        self._before, self._works = own_ns, self._works_of(step)

    def paces(self) -> dict[int, float]:
        """The pace of each slot that has one: 1 is as fast as the others, 2 takes twice as long."""
        with self._lock:
            self._forget(self._clock())
            observed = list(self._observed)
        if not observed:
            return {}
        sizes = [len(one.slots) for one in observed]
        part = np.repeat(np.arange(len(observed)) * PARTS // len(observed), sizes)
        slots, works, ranks = (np.concatenate([one[field] for one in observed]) for field in (1, 2, 3))
        own_ns = np.concatenate([one.own_ns for one in observed])
        usual_ns = ranks * _usual(slots, works, own_ns / ranks)
        return _relative(self._ratios(part * self._count + slots, own_ns, usual_ns))

    def slow(self) -> Mapping[int, float]:
        """The slots that are slow, and their paces."""
        paces = self.paces()
        self._named = frozenset(
            slot for slot, pace in paces.items() if pace >= (NO_LONGER_SLOW if slot in self._named else SLOW)
        )
        return {slot: paces[slot] for slot in sorted(self._named)}

    def _works_of(self, step: Step) -> NDArray[np.int64]:
        """The work of each rank in a step, numbered, `[world]`; -1 for none."""
        passes: dict[int, list[tuple[int, int]]] = {}
        for micro_batch in step.micro_batches:
            for shard, chunks in enumerate(micro_batch):
                if chunks:
                    tokens = sum(len(chunk.tokens) for chunk in chunks)
                    context = sum(len(chunk.tokens) * (chunk.start + len(chunk.tokens)) for chunk in chunks)
                    passes.setdefault(shard, []).append((tokens, context))
        sizes = {
            shard: (len(made), sum(t for t, _ in made).bit_length(), sum(c for _, c in made).bit_length())
            for shard, made in passes.items()
        }
        works = [
            self._numbers.setdefault((here.pp, *sizes[here.ep]), len(self._numbers)) if here.ep in sizes else -1
            for here in self._coordinates
        ]
        return np.array(works)

    def _observe(self, now: float, own_ns: NDArray[np.int64]) -> None:
        """Keep what ranks took for the step that has ended, unless many are kept."""
        self._forget(now)
        if self._observed and now - self._observed[-1].at < WINDOW_S / MOST_STEPS:
            return
        busy = np.flatnonzero(self._works >= 0)
        if len(busy):
            pairs = np.stack((self._slots[busy], self._works[busy]))
            (slots, works), entry = np.unique(pairs, axis=1, return_inverse=True)
            entry = entry.reshape(-1)
            sums = np.bincount(entry, weights=own_ns[busy]).astype(np.float64)
            self._observed.append(_Observed(now, slots, works, np.bincount(entry), sums))

    def _forget(self, now: float) -> None:
        while self._observed and self._observed[0].at < now - WINDOW_S:
            self._observed.popleft()

    def _ratios(
        self, places: NDArray[np.int64], own_ns: NDArray[np.float64], usual_ns: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Time over the usual of each part and slot, `[parts, slots]`; NaN where a slot shared too few steps."""
        shared = usual_ns > 0
        places, size = places[shared], PARTS * self._count
        own, usual = (np.bincount(places, time[shared], size) for time in (own_ns, usual_ns))
        enough = np.bincount(places, minlength=size) >= LEAST_STEPS
        ratios = np.full(size, np.nan)
        ratios[enough] = own[enough] / usual[enough]
        return ratios.reshape(PARTS, self._count)


def _usual(slots: NDArray[np.int64], works: NDArray[np.int64], ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each entry the median of its work over all slots; 0 where only one slot has had that work."""
    usual = np.zeros(len(works))
    for work in np.unique(works):
        same = works == work
        if len(np.unique(slots[same])) > 1:
            usual[same] = np.median(ns[same])
    return usual


def _relative(ratios: NDArray[np.float64]) -> dict[int, float]:
    """Paces out of `[parts, slots]`: of slots with more than half of the parts, where there are two such."""
    enough = np.flatnonzero(np.count_nonzero(~np.isnan(ratios), axis=0) > len(ratios) / 2)
    if len(enough) < 2:
        return {}
    found = {int(slot): float(np.nanmedian(ratios[:, slot])) for slot in enough}
    usual = sorted(found.values())[(len(found) - 1) // 2]
    return {slot: ratio / usual for slot, ratio in found.items()}
