"""Stages of many candidates at once: `stages.balance` in columns, and of its stages those that can be slowest or fullest.

Rows are candidates. Sums of costs of all rows lie in one ascending array, so that one binary search serves them all.
"""

from dataclasses import dataclass

import numpy as np

from moe_plan.search.arrays import Bools, Floats, Ints
from moe_plan.shares import layer_kinds
from moe_plan.stages import end_costs, layer_costs
from moe_plan.subject import Subject


@dataclass(frozen=True, slots=True)
class StageColumns:
    """Stages of candidates that may be slowest or fullest, `[classes]` of columns `[candidates]`.

    Where a candidate has fewer classes than others, one of its own is repeated.
    """

    counts: tuple[tuple[Ints, ...], ...]
    """Layers of each kind, `[classes][kinds]`."""
    embedding: tuple[Ints, ...]
    """1 where the stage holds the embedding."""
    head: tuple[Ints, ...]
    """1 where the stage holds the head."""

    def take(self, rows: Ints) -> "StageColumns":
        """The same for some candidates, repeats allowed."""
        return StageColumns(
            tuple(tuple(kind.take(rows) for kind in counts) for counts in self.counts),
            tuple(column.take(rows) for column in self.embedding),
            tuple(column.take(rows) for column in self.head),
        )


def stage_columns(subject: Subject, tp: Ints, per_rank: Ints, pp: Ints) -> StageColumns:
    """The classes of stages of each candidate, its layers balanced by cost.

    Of stages without embedding and head only those are kept that no other has as many layers of each kind as: a
    stage with fewer layers is neither slower nor fuller, since every layer adds time, weights and cache.
    """
    of_kind = np.asarray(subject.kinds)
    ends = balance_columns(_layer_costs(subject, tp, per_rank), pp)
    sums = np.zeros((len(of_kind) + 1, len(layer_kinds(subject.shape))), dtype=np.int64)
    np.cumsum(of_kind[:, None] == np.arange(sums.shape[1]), axis=0, out=sums[1:])
    counts = sums[ends[:, 1:]] - sums[ends[:, :-1]]
    rows = np.arange(len(pp))
    first, last = counts[:, 0], counts[rows, pp - 1]
    one = np.ones_like(pp)
    found = [(first, one, (pp == 1).astype(np.int64)), (last, (pp == 1).astype(np.int64), one)]
    stage = np.arange(counts.shape[1])
    inner = (stage > 0) & (stage < pp[:, None] - 1)
    found += [(np.where(has[:, None], middle, last), *_ends(has, pp, one)) for middle, has in _largest(counts, inner)]
    return StageColumns(
        counts=tuple(tuple(np.ascontiguousarray(kinds.T)) for kinds, _, _ in found),
        embedding=tuple(embedding for _, embedding, _ in found),
        head=tuple(head for _, _, head in found),
    )


def balance_columns(costs: Ints, stages: Ints) -> Ints:
    """Ends of the stages of each row, `[rows, 1 + most stages]`, as `stages.balance` deals `costs[rows, layers]`.

    Beyond a row's stages its last end, the number of layers, is repeated.
    """
    return _Balance(costs, stages).ends()


class _Balance:
    """Rows sorted by stages, most first, so that the rows that still have a stage are a prefix."""

    def __init__(self, costs: Ints, stages: Ints) -> None:
        self.rows, self.layers = costs.shape
        self.order = np.argsort(-stages, kind="stable")
        self.stages = stages[self.order]
        self.most = int(self.stages.max(initial=1))
        self.sums = np.zeros((self.rows, self.layers + 1), dtype=np.int64)
        np.cumsum(costs[self.order], axis=1, out=self.sums[:, 1:])
        self.total = self.sums[:, -1].copy()
        self.widest = costs[self.order].max(axis=1, initial=0)
        self.shift = np.arange(self.rows) * (int(self.total.max(initial=0)) + 1)
        self.base = np.arange(self.rows) * (self.layers + 1)
        self.flat = (self.sums + self.shift[:, None]).ravel()
        self.having = [int(n) for n in np.searchsorted(-self.stages, -np.arange(self.most), side="left")]
        """How many rows have more than so many stages."""

    def ends(self) -> Ints:
        bottleneck = self._bottleneck()
        earliest = self._earliest(bottleneck)
        ends = np.full((self.most + 1, self.rows), self.layers)
        ends[0] = 0
        for stage in range(self.most):
            n = self.having[stage]
            start, left = ends[stage, :n], self.stages[:n] - stage
            sums = self._at(start)
            latest = np.minimum(self._reach(sums + bottleneck[:n]), self.layers - left + 1)
            lowest = np.maximum(earliest[stage, :n], start + 1)
            ends[stage + 1, :n] = self._nearest(sums + (self.total[:n] - sums) / left, lowest, latest)
        out = np.empty((self.rows, self.most + 1), dtype=np.int64)
        out[self.order] = ends.T
        return out

    def _bottleneck(self) -> Ints:
        """Least bound of a stage's sum with which each row's stages suffice.

        Filling greedily, a bound that fails stays failing until it admits one more layer into some stage: the least
        such bound is tried next.
        """
        bound: Ints = np.maximum(-(-self.total // self.stages), self.widest)
        todo = np.arange(self.rows)
        while len(todo):
            start = np.zeros(len(todo), dtype=np.int64)
            wider = np.full(len(todo), np.iinfo(np.int64).max)
            for stage in range(int(self.stages[todo[0]])):
                n = int(np.searchsorted(-self.stages[todo], -stage, side="left"))
                rows, sums = todo[:n], self.flat[self.base[todo[:n]] + start[:n]]
                start[:n] = self.flat.searchsorted(sums + bound[rows], side="right") - 1 - self.base[rows]
                np.minimum(start[:n], self.layers, out=start[:n])
                beyond = self.flat[self.base[rows] + np.minimum(start[:n] + 1, self.layers)] - sums
                wider[:n] = np.minimum(wider[:n], np.where(start[:n] < self.layers, beyond, wider[:n]))
            failed = start < self.layers
            bound[todo[failed]] = wider[failed]
            todo = todo[failed]
        return bound

    def _earliest(self, bottleneck: Ints) -> Ints:
        """For each stage the least end from which the later ones hold the rest under the bottleneck."""
        ends = np.zeros((self.most, self.rows), dtype=np.int64)
        rows = np.arange(self.rows)
        end = np.full(self.rows, self.layers)
        ends[self.stages - 1, rows] = end
        for back in range(1, self.most):
            n = self.having[back]
            sums = self._at(end[:n]) - bottleneck[:n]
            at = self.flat.searchsorted(np.maximum(sums, 0) + self.shift[:n]) - self.base[:n]
            end[:n] = np.maximum(0, np.minimum(at, end[:n] - 1))
            ends[self.stages[:n] - 1 - back, rows[:n]] = end[:n]
        return ends

    def _at(self, ends: Ints) -> Ints:
        """Sums of costs up to an end, of the first rows."""
        n = len(ends)
        return np.asarray(self.flat[self.base[:n] + ends] - self.shift[:n])

    def _reach(self, limit: Ints) -> Ints:
        """The last end whose sum is within a limit, of the first rows."""
        n = len(limit)
        within = np.minimum(limit, self.total[:n]) + self.shift[:n]
        return np.asarray(self.flat.searchsorted(within, side="right") - 1 - self.base[:n])

    def _nearest(self, value: Floats, lowest: Ints, latest: Ints) -> Ints:
        """The end from lowest to latest whose sum is nearest to a value, the first where two are."""
        n = len(value)
        at = self.flat.searchsorted(np.ceil(value).astype(np.int64) + self.shift[:n]) - self.base[:n]
        above = np.minimum(np.maximum(at, lowest), latest)
        below = np.minimum(np.maximum(at - 1, lowest), latest)
        nearer = np.abs(self._at(below) - value) <= np.abs(self._at(above) - value)
        return np.asarray(np.where(nearer, below, above))


def _layer_costs(subject: Subject, tp: Ints, per_rank: Ints) -> Ints:
    """`stages.stage_costs` of each row, `[rows, layers]`."""
    costs = np.stack([np.broadcast_to(cost, tp.shape) for cost in layer_costs(subject.shape, tp, per_rank)])
    by_layer = costs[np.asarray(subject.kinds)].T.astype(np.float64)
    embedding, head = end_costs(subject.shape, tp)
    by_layer[:, 0] += embedding
    by_layer[:, -1] += head
    return np.asarray(np.ceil(by_layer), dtype=np.int64)


def _ends(has: Bools, pp: Ints, one: Ints) -> tuple[Ints, Ints]:
    """Embedding and head of an inner stage, or of the last one in its stead."""
    return np.where(has, 0, (pp == 1).astype(np.int64)), np.where(has, 0, one)


def _largest(counts: Ints, inner: Bools) -> list[tuple[Ints, Bools]]:
    """Inner stages that no other inner stage of the row covers, each `[rows, kinds]` with the rows that have it."""
    radix = int(counts.max(initial=0)) + 1
    places = radix ** np.arange(counts.shape[2])
    codes = np.sort(np.where(inner, counts @ places, -1), axis=1)[:, ::-1]
    distinct = codes >= 0
    distinct[:, 1:] &= codes[:, 1:] != codes[:, :-1]
    found: list[tuple[Ints, Bools]] = []
    slot = np.where(distinct, np.cumsum(distinct, axis=1) - 1, -1)
    for number in range(int(distinct.sum(axis=1).max(initial=0))):
        here = slot == number
        has = here.any(axis=1)
        code = np.where(has, codes[np.arange(len(codes)), here.argmax(axis=1)], 0)
        found.append((code[:, None] // places % radix, has))
    return _uncovered(found)


def _uncovered(found: list[tuple[Ints, Bools]]) -> list[tuple[Ints, Bools]]:
    kept = []
    for number, (kinds, has) in enumerate(found):
        covered = np.zeros_like(has)
        for other, (others, theirs) in enumerate(found):
            if other != number:
                covered |= theirs & (others >= kinds).all(axis=1)
        kept.append((kinds, has & ~covered))
    return [(kinds, has) for kinds, has in kept if has.any()]
