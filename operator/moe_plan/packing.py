"""Experts packed onto ranks by load: which experts get copies, and which rank gets which copy.

1. Each further copy goes to the expert with the most load a copy, which makes the largest load of any copy as small as
   it can be (Adams's method of apportionment; Balinski and Young, "Fair Representation", 1982, appendix A).
2. Copies, the largest load first, are packed onto ranks that take as many each: in rounds in which every rank gets one
   or, where there are few copies to level the largest loads and it is better, each to the rank with the least load that
   has room (LPT: Graham, SIAM Journal on Applied Mathematics 17(2), 1969).

Rounds hold a bound whatever the loads: a round of loads l to s, largest to smallest, parts any two ranks by at most
l - s more than they were, and the rounds' intervals do not overlap. So the fullest rank holds at most the largest
load of a copy less the smallest one more than the emptiest, and than the mean.

All layers are packed at once. L layers, E logical experts, n physical ones, R ranks of n / R places.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_HALVINGS = 40
"""After so many a bound is within 10⁻¹² of the least."""
_NEAR = 1.01
"""Multiple of the least that is possible below which the other way of packing is not tried."""


class Packed(NamedTuple):
    """Copies on ranks."""

    rank: Ints
    """Of each copy, `[L, n]`."""
    fullest: Floats
    """Load of the fullest rank, `[L]`; infinite where the copies could not be packed."""


class Packing(NamedTuple):
    """Experts on ranks."""

    experts: Ints
    """Logical expert of each copy, the copies by falling load, `[L, n]`."""
    packed: Packed

    def physical(self) -> Ints:
        """Logical expert of each physical one, rank after rank, `[L, n]`."""
        by_rank = np.argsort(self.packed.rank * self.experts.shape[1] + self.experts, axis=1)
        return np.take_along_axis(self.experts, by_rank, axis=1)


def copies_by_load(shares: Floats, redundant: int, ranks: int) -> Ints:
    """Copies of each expert, one at least and one a rank at most, `[L, E]`, of loads `shares [L, E]`."""
    wanted = shares.shape[1] + redundant
    copies = _copies_below(shares, wanted, ranks)
    each = np.where(copies < ranks, shares / copies, -1.0)
    while (rows := np.flatnonzero(copies.sum(axis=1) < wanted)).size:
        expert = each[rows].argmax(axis=1)
        copies[rows, expert] += 1
        here = copies[rows, expert]
        each[rows, expert] = np.where(here < ranks, shares[rows, expert] / here, -1.0)
    return copies


def _copies_below(shares: Floats, wanted: int, ranks: int) -> Ints:
    """The copies that bring every load a copy down to the least bound for which no more than `wanted` are needed."""
    low, high = np.zeros((len(shares), 1)), shares.max(axis=1, keepdims=True)

    def copies(bound: Floats) -> Ints:
        return np.clip(np.ceil(shares / bound), 1, ranks).astype(np.int64)

    for _ in range(_HALVINGS if wanted > shares.shape[1] else 0):
        middle = (low + high) / 2
        enough = copies(middle).sum(axis=1, keepdims=True) <= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return copies(high)


def pack_by_load(shares: Floats, redundant: int, ranks: int) -> Packing:
    """Experts of loads `shares [L, E]` and their copies on ranks."""
    copies = copies_by_load(shares, redundant, ranks)
    order = np.argsort(-shares / copies, axis=1, kind="stable")
    counts = np.take_along_axis(copies, order, axis=1)
    experts = np.repeat(order.ravel(), counts.ravel()).reshape(len(shares), -1)
    loads = np.take_along_axis(shares / copies, experts, axis=1)
    packed = in_rounds(experts, loads, ranks)
    worth = packed.fullest > _NEAR * _least_fullest(loads, ranks)
    if redundant < ranks and experts.shape[1] > 2 * ranks and worth.any():  # with two places both ways are one
        some = np.flatnonzero(worth)
        packed = _better(packed, some, least_loaded(experts[some], loads[some], ranks))
    return Packing(experts, packed)


def fullest_share(shares: Floats, physical: Ints, ranks: int) -> Floats:
    """Load of the fullest rank, `[L]`, of given physical experts `[L, n]`, an expert's copies sharing its load evenly."""
    rows = np.arange(len(shares))[:, None]
    copies = np.zeros(shares.shape, dtype=np.int64)
    np.add.at(copies, (np.broadcast_to(rows, physical.shape), physical), 1)
    loads = np.take_along_axis(shares / np.maximum(copies, 1), physical, axis=1)
    return np.asarray(loads.reshape(len(shares), ranks, -1).sum(axis=2).max(axis=1))


def in_rounds(experts: Ints, loads: Floats, ranks: int) -> Packed:
    """Every rank gets one copy of each round, the emptiest rank the largest; copies are `[L, n]`, by falling load."""
    rank, total = np.empty_like(experts), np.zeros((len(experts), ranks))
    for start in range(0, experts.shape[1], ranks):
        now = slice(start, start + ranks)
        order = np.argsort(total, axis=1, kind="stable")
        if start:
            before = slice(start - ranks, start)
            order = _apart(order, experts[:, before], rank[:, before], experts[:, now])
        rank[:, now] = order
        np.put_along_axis(total, order, np.take_along_axis(total, order, axis=1) + loads[:, now], axis=1)
    return Packed(rank, total.max(axis=1))


def _apart(order: Ints, last: Ints, rank: Ints, now: Ints) -> Ints:
    """The ranks in an order, but first those that the first expert of this round may go to.

    Copies of one expert follow one another, so that only the last expert of a round goes on in the next one, and its
    copies there, as all together are no more than ranks, find ranks without it.
    """
    straddling = last[:, -1:]
    holds = np.zeros(order.shape, dtype=np.bool_)
    np.put_along_axis(holds, rank, last == straddling, axis=1)
    free = ~np.take_along_axis(holds, order, axis=1)
    wanted = (now == straddling).sum(axis=1, keepdims=True)
    first = free & (free.cumsum(axis=1) <= wanted)
    return np.take_along_axis(order, np.argsort(~first, axis=1, kind="stable"), axis=1)


def least_loaded(experts: Ints, loads: Floats, ranks: int) -> Packed:
    """Each copy goes to the rank with the least load that has room and no copy of its expert."""
    layers, count = experts.shape
    places, rows = count // ranks, np.arange(layers)
    rank = np.empty_like(experts)
    rank[:, :ranks] = np.arange(ranks)
    total, held = loads[:, :ranks].copy(), np.ones((layers, ranks), dtype=np.int64)
    open_total, holds = total.copy(), experts[:, :ranks] == experts[:, ranks, None]
    packed = np.ones(layers, dtype=np.bool_)
    for copy in range(ranks, count):
        if copy > ranks:
            holds &= (experts[:, copy] == experts[:, copy - 1])[:, None]
        room = np.where(holds, np.inf, open_total)
        chosen = room.argmin(axis=1)
        packed &= np.isfinite(room[rows, chosen])
        rank[:, copy] = chosen
        total[rows, chosen] += loads[:, copy]
        held[rows, chosen] += 1
        open_total[rows, chosen] = np.where(held[rows, chosen] < places, total[rows, chosen], np.inf)
        holds[rows, chosen] = True
    return Packed(rank, np.where(packed, total.max(axis=1), np.inf))


def _least_fullest(loads: Floats, ranks: int) -> Floats:
    """Load that the fullest rank has at least, `[L]`: the mean, or the largest copy beside the smallest ones."""
    others = loads.shape[1] // ranks - 1
    smallest = loads[:, loads.shape[1] - others :].sum(axis=1)
    return np.asarray(np.maximum(loads.sum(axis=1) / ranks, loads[:, 0] + smallest))


def _better(one: Packed, some: Ints, other: Packed) -> Packed:
    """The one, or of some layers the other where its fullest rank has less."""
    takes = other.fullest < one.fullest[some]
    rank, fullest = one.rank.copy(), one.fullest.copy()
    rank[some[takes]], fullest[some[takes]] = other.rank[takes], other.fullest[takes]
    return Packed(rank, fullest)
