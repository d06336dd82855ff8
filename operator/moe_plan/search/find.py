"""The whole search: sweep every layout at the workload's load and at any, and tell the best, the rest and the front.

Two sweeps share the layouts. At the workload's requests the numbers of replicas vary; what is best, what loses and the
fewest GPUs come of it. For the front the load varies, on one replica.
"""

from dataclasses import dataclass

import numpy as np

from moe_plan.search.front import front
from moe_plan.search.layouts import layouts
from moe_plan.search.rows import Rows, make_rows
from moe_plan.search.space import Space
from moe_plan.search.sweep import at_any_load, at_workload, predict_columns
from moe_plan.search.swept import Swept
from moe_plan.subject import Subject

RUNNERS_UP = 8
"""Runners-up that are told."""

_LOOKED_AT = 2000
"""Best candidates among which runners-up are looked for: each layout has several, by micro-batches and rank order."""


@dataclass(frozen=True, slots=True)
class Search:
    """The sweep at the workload's load, of every layout that fits."""

    rows: Rows
    workload: Swept

    @property
    def best(self) -> int | None:
        """The best candidate; None where no layout fits."""
        found = self.workload.best_first(np.ones(len(self.workload), dtype=np.bool_), 1)
        return int(found[0]) if len(found) else None

    @property
    def fewest(self) -> int | None:
        """The best candidate of the fewest GPUs with which the targets are met; None where they are not."""
        met = self.workload.shortfall == 0
        if not met.any():
            return None
        gpus = self.workload.gpus
        return int(self.workload.best_first(met & (gpus == gpus[met].min()), 1)[0])


def search(subject: Subject, space: Space) -> Search:
    """Every layout of a space at the workload's load."""
    rows = make_rows(subject, space, layouts(subject, space))
    loads = at_workload(subject, space, rows)
    return Search(rows, Swept(subject, space, rows, loads, predict_columns(subject, rows, loads)))


def any_load(found: Search) -> Swept:
    """The same layouts at any load."""
    subject, space = found.workload.subject, found.workload.space
    loads = at_any_load(subject, space, found.rows)
    return Swept(subject, space, found.rows, loads, predict_columns(subject, found.rows, loads))


def front_of(swept: Swept) -> tuple[int, ...]:
    """Candidates that none beats in tokens/s a GPU, TPOT and TTFT at once, by falling tokens/s a GPU."""
    return tuple(front(swept.rate, swept.times.tpot, swept.times.ttft).tolist())


def runners_up(found: Search, best: int) -> tuple[int, ...]:
    """The best candidates of other degrees or replicas than the best one's, the best first."""
    swept = found.workload
    told = {_family(swept, best)}
    others: list[int] = []
    for candidate in swept.best_first(np.ones(len(swept), dtype=np.bool_), _LOOKED_AT).tolist():
        family = _family(swept, candidate)
        if family not in told and len(others) < RUNNERS_UP:
            told.add(family)
            others.append(candidate)
    return tuple(others)


def _family(swept: Swept, candidate: int) -> tuple[int, ...]:
    layout = swept.choice(candidate).layout
    return layout.ep, layout.tp, layout.pp, int(swept.loads.replicas[candidate])
