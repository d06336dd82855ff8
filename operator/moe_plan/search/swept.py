"""Candidates with what is predicted of them, and their order: nearest to the targets, most tokens/s, fewest GPUs."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from moe_plan.layout import Layout
from moe_plan.search.arrays import Bools, Floats, Ints
from moe_plan.search.choice import Choice
from moe_plan.search.front import rounded
from moe_plan.search.layouts import Layouts
from moe_plan.search.result import Found
from moe_plan.search.rows import Rows
from moe_plan.search.space import Space
from moe_plan.search.sweep import Loads, Times, predict_columns
from moe_plan.subject import Subject

_NONE = np.zeros(0)
NOTHING = Times(_NONE, _NONE, _NONE, _NONE.astype(np.int64))
"""Times of candidates before they are predicted."""


@dataclass(frozen=True)
class Swept:
    """Rows under loads, and their times."""

    subject: Subject
    space: Space
    layouts: Layouts
    """Of each row."""
    order: Ints
    """Of each row, the index into the space's rank orders."""
    kv_requests: Ints
    """Of each row, the requests that a shard's KV cache holds."""
    loads: Loads
    times: Times

    @classmethod
    def without_times(cls, subject: Subject, space: Space, rows: Rows, loads: Loads) -> "Swept":
        """Candidates that nothing is predicted of yet."""
        return cls(subject, space, rows.layouts, rows.order, rows.kv_requests, loads, NOTHING)

    def joined(self, other: "Swept") -> "Swept":
        """These candidates, then the others."""
        return replace(
            self,
            layouts=self.layouts.joined(other.layouts),
            order=np.concatenate((self.order, other.order)),
            kv_requests=np.concatenate((self.kv_requests, other.kv_requests)),
            loads=self.loads.joined(other.loads, len(self.layouts)),
            times=self.times.joined(other.times),
        )

    def __len__(self) -> int:
        return len(self.loads)

    @cached_property
    def gpus(self) -> Ints:
        """GPUs of all replicas of each candidate."""
        return self.layouts.world[self.loads.row] * self.loads.replicas

    @cached_property
    def rate(self) -> Floats:
        """Tokens/s a GPU."""
        return self.times.tokens_per_s / self.gpus

    @cached_property
    def shortfall(self) -> Floats:
        """As `choice.shortfall`: by what factor the worst target is missed, less one; 0 when all are met."""
        workload = self.subject.spec.workload
        worst = np.zeros(len(self))
        if workload.mode != "training":
            worst = self.crowding
        if workload.ttft is not None:
            worst = np.maximum(worst, self.times.ttft / workload.ttft)
        if workload.tpot is not None:
            worst = np.maximum(worst, self.times.tpot / workload.tpot)
        return np.maximum(0.0, worst - 1)

    @cached_property
    def crowding(self) -> Floats:
        """Requests for each one that the KV caches hold."""
        row = self.loads.row
        held = self.kv_requests[row] * self.layouts.ep[row] * self.loads.replicas
        return np.asarray(self.loads.concurrency / np.maximum(held, 0.5))

    def best_first(self, among: Bools, count: int) -> Ints:
        """The best candidates among some, the best first; `count` of them, or fewer where there are no more."""
        which = np.flatnonzero(among)
        if len(which) > count:
            value = np.where(self.shortfall[which] > 0, self.shortfall[which], -self.times.tokens_per_s[which])
            which = which[value <= np.partition(value, count)[count]]
        rows, layouts = self.loads.row[which], self.layouts
        keys = (
            self.order[rows],
            self.loads.micro_batches[which],
            layouts.per_rank[rows],
            layouts.tp[rows],
            layouts.pp[rows],
            self.gpus[which],
            -rounded(self.times.tokens_per_s[which]),
            rounded(self.shortfall[which]),
        )
        return which[np.lexsort(keys)][:count]

    def degrees(self, candidates: Ints) -> tuple[Ints, Ints, Ints]:
        """ep, tp and pp of candidates."""
        row, of = self.loads.row[candidates], self.layouts
        return of.ep[row], of.tp[row], of.pp[row]

    def choice(self, candidate: int) -> Choice:
        """Layout and copies of experts of a candidate."""
        row, layouts = self.loads.row[candidate], self.layouts
        ep, tp, pp, per_rank = (int(c[row]) for c in (layouts.ep, layouts.tp, layouts.pp, layouts.per_rank))
        order = self.space.rank_orders[self.order[row]]
        return Choice(Layout(ep, tp, pp, order), ep * per_rank - self.subject.experts)

    def found(self, candidate: int) -> Found:
        """A candidate as it is told."""
        choice, loads, times = self.choice(candidate), self.loads, self.times
        return Found(
            ep=choice.layout.ep,
            tp=choice.layout.tp,
            pp=choice.layout.pp,
            replicas=int(loads.replicas[candidate]),
            gpus=int(self.gpus[candidate]),
            redundant_experts=choice.redundant,
            rank_order=choice.layout.rank_order,
            micro_batches=int(loads.micro_batches[candidate]),
            concurrency=int(loads.concurrency[candidate]),
            batch_per_shard=int(times.batch[candidate]),
            ttft=float(times.ttft[candidate]),
            tpot=float(times.tpot[candidate]),
            tokens_per_s=float(times.tokens_per_s[candidate]),
            tokens_per_s_per_gpu=float(self.rate[candidate]),
            meets=bool(self.shortfall[candidate] == 0),
        )


def sweep(subject: Subject, space: Space, rows: Rows, loads: Loads) -> Swept:
    """Predictions of rows under loads."""
    return replace(Swept.without_times(subject, space, rows, loads), times=predict_columns(subject, rows, loads))
