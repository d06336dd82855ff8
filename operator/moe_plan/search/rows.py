"""Candidates as rows of columns: a layout in a rank order with what the cost model wants to know of it."""

from dataclasses import dataclass

import numpy as np

from moe_plan.cost.collectives import Links, span_of
from moe_plan.engines import engines, expressible
from moe_plan.layout import Dimension, Layout
from moe_plan.search.arrays import Bools, Floats, Ints, distinct
from moe_plan.search.layouts import Dealt, Layouts, deal_columns
from moe_plan.search.network import Ordered, in_orders
from moe_plan.search.pipeline import StageColumns
from moe_plan.search.space import Space
from moe_plan.subject import Subject


@dataclass(frozen=True, slots=True)
class Rows:
    """Layouts that fit, each in each rank order that makes a difference."""

    layouts: Layouts
    stages: StageColumns
    busiest: Floats
    kv_requests: Ints
    order: Ints
    """Index into the space's rank orders."""
    fanouts: dict[Dimension, Ints]
    """Parties on each tier, `[tiers, rows]`."""

    def __len__(self) -> int:
        return len(self.order)

    def take(self, rows: Ints) -> "Rows":
        """Some of the rows, repeats allowed."""
        return Rows(
            self.layouts.take(rows),
            self.stages.take(rows),
            self.busiest.take(rows),
            self.kv_requests.take(rows),
            self.order.take(rows),
            {dimension: tiers.take(rows, axis=1) for dimension, tiers in self.fanouts.items()},
        )

    def redundant(self, subject: Subject) -> Ints:
        """Copies of experts beyond one of each."""
        return self.layouts.ep * self.layouts.per_rank - subject.experts

    def links(self, subject: Subject, dimension: Dimension) -> Links:
        """What the groups along a dimension span, a column of fanouts a tier; none where no row spans the tier."""
        tiers = zip(subject.hardware.links, self.fanouts[dimension], strict=True)
        return tuple(span_of(tier, fanout.astype(np.float64)) for tier, fanout in tiers if (fanout > 1).any())


def make_rows(subject: Subject, space: Space, candidates: Layouts) -> Rows:
    """The candidates that fit, in every rank order that suits them and that the engine can express."""
    degrees: dict[Dimension, Ints] = {"ep": candidates.ep, "tp": candidates.tp, "pp": candidates.pp}
    allowed = subject.spec.parallelism.allow_cross_node_tensor_parallel
    ordered = in_orders(space.rank_orders, degrees, subject.hardware, "allowed" if allowed else "never")
    first, at = distinct(ordered.candidate)
    _, found = _fitting(subject, space, deal_columns(subject, candidates.take(ordered.candidate[first])), at, ordered)
    return found


def copied_rows(subject: Subject, space: Space, rows: Rows, parent: Ints, per_rank: Ints) -> tuple[Ints, Rows]:
    """Rows with other numbers of physical experts a rank: those that fit, and which rows they were."""
    of = rows.layouts.take(parent)
    dealt = deal_columns(subject, Layouts(of.ep, of.tp, of.pp, per_rank))
    fanouts = {dimension: tiers[:, parent] for dimension, tiers in rows.fanouts.items()}
    pairs, found = _fitting(subject, space, dealt, np.arange(len(parent)), Ordered(parent, rows.order[parent], fanouts))
    return parent[pairs], found


def _fitting(subject: Subject, space: Space, dealt: Dealt, at: Ints, ordered: Ordered) -> tuple[Ints, Rows]:
    """Which pairs of a dealt layout and a rank order fit and can be expressed, and their rows."""
    pairs = np.flatnonzero(dealt.fits[at])
    rows = at[pairs]
    found = Rows(
        dealt.layouts.take(rows),
        dealt.stages.take(rows),
        dealt.busiest[rows],
        dealt.kv_requests[rows],
        ordered.order[pairs],
        {dimension: tiers[:, pairs] for dimension, tiers in ordered.fanouts.items()},
    )
    kept = np.flatnonzero(_expressible(subject, space, found))
    return pairs[kept], found.take(kept)


def _expressible(subject: Subject, space: Space, rows: Rows) -> Bools:
    """Whether the manifest's engine can express a row; the bundled runtime can express all."""
    if subject.spec.runtime.engine not in engines():
        return np.ones(len(rows), dtype=np.bool_)
    found = (
        expressible(subject, Layout(ep, tp, pp, space.rank_orders[order]), redundant)
        for ep, tp, pp, redundant, order in zip(
            rows.layouts.ep.tolist(),
            rows.layouts.tp.tolist(),
            rows.layouts.pp.tolist(),
            rows.redundant(subject).tolist(),
            rows.order.tolist(),
            strict=True,
        )
    )
    return np.fromiter(found, dtype=np.bool_, count=len(rows))
