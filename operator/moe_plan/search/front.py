"""The Pareto front of three figures: what nothing else beats in one of them without losing in another."""

from bisect import bisect_left, bisect_right

import numpy as np

from moe_plan.search.arrays import Bools, Floats, Ints

_BLOCKS = (64, 8192)
"""Candidates of the first block that is compared at once, doubled from block to block, and of the largest."""

_SAMPLE = 512
"""Candidates of a sample, at least, whose front shows most of the others to be beaten."""

_DIGITS = 9
"""Figures that agree in so many digits are taken to be the same: the last ones of a sum depend on its order."""


def front(rate: Floats, tpot: Floats, ttft: Floats) -> Ints:
    """Which candidates are on the front of most `rate`, least `tpot` and least `ttft`, by falling rate.

    Of candidates with the same figures the first is kept.
    """
    among = _not_beaten_by_some(rate, tpot, ttft)
    rate, tpot, ttft = rounded(rate[among]), rounded(tpot[among]), rounded(ttft[among])
    kept = _culled(np.argsort(-rate, kind="stable"), tpot, ttft)
    kept = kept[np.lexsort((kept, ttft[kept], tpot[kept], -rate[kept]))]
    stairs = _Stairs()
    found = [i for i in kept.tolist() if stairs.admits(float(tpot[i]), float(ttft[i]))]
    return among[np.asarray(found, dtype=np.int64)]


def beaten(rate: Floats, tpot: Floats, ttft: Floats, points: tuple[Floats, Floats, Floats]) -> Bools:
    """Which candidates some point, of a rate, a tpot and a ttft, is as good as in all three figures.

    A table has the least ttft of the points with so many of the highest rates and of the least tpots.
    """
    by_rate, by_tpot = np.argsort(points[0]), np.argsort(points[1])
    count = len(by_rate)
    least = np.full((count + 1, count + 1), np.inf)
    place = np.empty(count, dtype=np.int64)
    place[by_tpot] = np.arange(count)
    least[count - np.arange(count), 1 + place[by_rate]] = points[2][by_rate]
    least = np.minimum.accumulate(np.minimum.accumulate(least, axis=0), axis=1)
    rates = count - np.searchsorted(points[0][by_rate], rate, side="left")
    tpots = np.searchsorted(points[1][by_tpot], tpot, side="right")
    return np.asarray(least[rates, tpots] <= ttft)


def rounded(values: Floats) -> Floats:
    """The values to nine significant digits."""
    positive = np.where(values == 0, 1.0, np.abs(values))
    scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(positive)))
    return np.asarray(np.rint(values * scale) / scale)


def _not_beaten_by_some(rate: Floats, tpot: Floats, ttft: Floats) -> Ints:
    """The candidates without most of those that are beaten, found by the front of a sample of them.

    A rate must be lower by more than rounding may even out, so that the rounded one is lower too.
    """
    every = len(rate) // _SAMPLE
    if every < 2:
        return np.arange(len(rate))
    sample = every * front(rate[::every], tpot[::every], ttft[::every])
    points = (rate[sample] * (1 - 10.0 ** (2 - _DIGITS)), tpot[sample], ttft[sample])
    return np.flatnonzero(~beaten(rate, tpot, ttft, points))


def _culled(order: Ints, tpot: Floats, ttft: Floats) -> Ints:
    """The candidates in an order, without most of those that an earlier one beats or equals strictly in both figures.

    A candidate that the lowest stairs of earlier blocks lie strictly below is beaten, whatever its rate.
    """
    kept = []
    stairs = _Stairs()
    start, size = 0, _BLOCKS[0]
    while start < len(order):
        block = order[start : start + size]
        start, size = start + size, min(2 * size, _BLOCKS[1])
        if stairs.tpot:
            step = np.searchsorted(np.asarray(stairs.tpot), tpot[block], side="left") - 1
            below = np.where(step >= 0, np.asarray(stairs.ttft)[step], np.inf)
            block = block[below >= ttft[block]]
        for i in block.tolist():
            stairs.admits(float(tpot[i]), float(ttft[i]))
        kept.append(block)
    return np.concatenate(kept) if kept else order


class _Stairs:
    """Least ttft for each tpot: rising tpot, falling ttft."""

    def __init__(self) -> None:
        self.tpot: list[float] = []
        self.ttft: list[float] = []

    def admits(self, tpot: float, ttft: float) -> bool:
        """Whether nothing so far is as good in both figures; if so, the pair is added."""
        step = bisect_right(self.tpot, tpot)
        if step and self.ttft[step - 1] <= ttft:
            return False
        first = bisect_left(self.tpot, tpot)
        last = first
        while last < len(self.tpot) and self.ttft[last] >= ttft:
            last += 1
        self.tpot[first:last] = [tpot]
        self.ttft[first:last] = [ttft]
        return True
