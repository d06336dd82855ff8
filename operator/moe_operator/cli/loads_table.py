"""Measured expert loads as lines of text: how evenly they fall on ranks, and what copies of experts would bring."""

from typing import TYPE_CHECKING

from moe_operator.cli.tables import table
from moe_plan.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe_plan.plan import Plan
    from moe_plan.search.redundancy import WithCopies

_HEADER = ("redundantExperts", "a rank", "fullest rank / mean", "TTFT", "TPOT", "tokens/s")


def copies_lines(plan: "Plan", found: "Sequence[WithCopies]") -> list[str]:
    """The plan and the same with more copies of experts, a line each."""
    if plan.experts.logical == plan.experts.per_rank:
        return ["every rank holds every expert: there is nothing to even out"]
    return table(map(_row, found), header=_HEADER)


def _row(one: "WithCopies") -> tuple[str, ...]:
    known = (f"{one.redundant:,}", str(one.per_rank), f"{one.imbalance:.2f}")
    prediction = one.prediction
    if prediction is None:
        return (*known, "–", "–", "no room")
    return (
        *known,
        format_seconds(prediction.ttft),
        format_seconds(prediction.tpot),
        f"{prediction.tokens_per_s:,.0f}",
    )
