"""The whole search: sweep every layout at the workload's load and at any, and tell the best, the rest and the front.

Two sweeps share the layouts. At the workload's requests the numbers of replicas vary; what is best, what loses and the
fewest GPUs come of it. For the front the load varies, on one replica.
"""

from dataclasses import dataclass

import numpy as np

from moe_plan.search.arrays import Bools, distinct
from moe_plan.search.copies import Bounds, Hopeful, with_copies
from moe_plan.search.front import beaten, front
from moe_plan.search.layouts import layouts
from moe_plan.search.rows import Rows, make_rows
from moe_plan.search.space import Space
from moe_plan.search.sweep import Loads, at_any_load, at_workload
from moe_plan.search.swept import Swept, sweep
from moe_plan.subject import Subject

RUNNERS_UP = 5
"""Runners-up that are told."""

_LOOKED_AT = 2000
"""Best candidates among which runners-up are looked for: each layout has several, by micro-batches and rank order."""


@dataclass(frozen=True, slots=True)
class Search:
    """The sweep at the workload's load, of every layout that fits."""

    rows: Rows
    """Those with the fewest copies of experts."""
    workload: Swept

    @property
    def best(self) -> int | None:
        """The best candidate; None where no layout fits."""
        return _best(self.workload)

    @property
    def fewest(self) -> int | None:
        """The best candidate of the fewest GPUs with which the targets are met; None where they are not."""
        return _fewest(self.workload)


def search(subject: Subject, space: Space) -> Search:
    """Every layout of a space at the workload's load."""

    def loads(rows: Rows) -> Loads:
        return at_workload(subject, space, rows)

    rows = make_rows(subject, space, layouts(subject, space))
    base = sweep(subject, space, rows, loads(rows))
    return Search(rows, with_copies(rows, base, loads, _may_be_told, "all"))


def any_load(found: Search) -> Swept:
    """The same layouts at any load."""
    subject, space = found.workload.subject, found.workload.space

    def loads(rows: Rows) -> Loads:
        return at_any_load(subject, space, rows)

    base = sweep(subject, space, found.rows, loads(found.rows))
    return with_copies(found.rows, base, loads, _may_be_in_front, "balanced")


def _may_be_told(base: Swept) -> Hopeful:
    """Candidates that may be better than the last runner-up, or need as few GPUs as any that meets the targets."""
    best, fewest = _best(base), _fewest(base)
    last = None if best is None else (best, *_runners_up(base, best))[-1]
    workload = base.subject.spec.workload

    def hopeful(bounds: Bounds) -> Bools:
        if last is None or fewest is None or base.shortfall[last] > 0:
            return np.ones(len(bounds.gpus), dtype=np.bool_)
        hope: Bools = (bounds.tokens_per_s >= base.times.tokens_per_s[last]) | (bounds.gpus < base.gpus[fewest])
        same = bounds.gpus == base.gpus[fewest]
        hope |= same & (bounds.tokens_per_s >= base.times.tokens_per_s[fewest])
        for bound, target in ((bounds.ttft, workload.ttft), (bounds.tpot, workload.tpot)):
            if target is not None:
                hope &= bound <= target
        if workload.mode != "training":
            hope &= bounds.crowding <= 1
        return hope

    return hopeful


def _may_be_in_front(base: Swept) -> Hopeful:
    """Candidates that no point of the front beats."""
    points = list(front_of(base))
    known = (base.rate[points], base.times.tpot[points], base.times.ttft[points])

    def hopeful(bounds: Bounds) -> Bools:
        return ~beaten(bounds.tokens_per_s / bounds.gpus, bounds.tpot, bounds.ttft, known)

    return hopeful


def _best(swept: Swept) -> int | None:
    found = swept.best_first(np.ones(len(swept), dtype=np.bool_), 1)
    return int(found[0]) if len(found) else None


def _fewest(swept: Swept) -> int | None:
    met = swept.shortfall == 0
    if not met.any():
        return None
    return int(swept.best_first(met & (swept.gpus == swept.gpus[met].min()), 1)[0])


def front_of(swept: Swept) -> tuple[int, ...]:
    """Candidates that none beats in tokens/s a GPU, TPOT and TTFT at once, by falling tokens/s a GPU."""
    return tuple(front(swept.rate, swept.times.tpot, swept.times.ttft).tolist())


def runners_up(found: Search, best: int) -> tuple[int, ...]:
    """The best candidates of other degrees than the best one's, the best first."""
    return _runners_up(found.workload, best)


def _runners_up(swept: Swept, best: int) -> tuple[int, ...]:
    candidates = swept.best_first(np.ones(len(swept), dtype=np.bool_), _LOOKED_AT)
    first, _ = distinct(*swept.degrees(candidates))
    others = candidates[np.sort(first)[: RUNNERS_UP + 1]].tolist()
    return tuple(other for other in others if other != best)[:RUNNERS_UP]
