"""The Pareto front of three figures: what nothing else beats in one of them without losing in another."""

from bisect import bisect_left, bisect_right

import numpy as np

from moe_plan.search.arrays import Floats, Ints

_BLOCKS = (64, 8192)
"""Candidates of the first block that is compared at once, doubled from block to block, and of the largest."""

_DIGITS = 9
"""Figures that agree in so many digits are taken to be the same: the last ones of a sum depend on its order."""


def front(rate: Floats, tpot: Floats, ttft: Floats) -> Ints:
    """Which candidates are on the front of most `rate`, least `tpot` and least `ttft`, by falling rate.

    Of candidates with the same figures the first is kept.
    """
    rate, tpot, ttft = rounded(rate), rounded(tpot), rounded(ttft)
    kept = _culled(np.argsort(-rate, kind="stable"), tpot, ttft)
    kept = kept[np.lexsort((kept, ttft[kept], tpot[kept], -rate[kept]))]
    stairs = _Stairs()
    return np.asarray([i for i in kept.tolist() if stairs.admits(float(tpot[i]), float(ttft[i]))], dtype=np.int64)


def rounded(values: Floats) -> Floats:
    """The values to nine significant digits."""
    positive = np.where(values == 0, 1.0, np.abs(values))
    scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(positive)))
    return np.asarray(np.rint(values * scale) / scale)


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
