"""What the tables of both searches, of layouts and of pools, have in common: the head's first line, targets, cells."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe_plan.units import format_seconds

if TYPE_CHECKING:
    from moe_plan.pools.result import Pool, PoolPair, PoolsResult
    from moe_plan.search.result import Found, SearchResult, Target


def title(result: "SearchResult | PoolsResult") -> str:
    """What was searched, on what."""
    return f"{result.name}: {result.model} on up to {result.max_gpus:,} {result.hardware} GPUs, engine {result.engine}"


def targets_told(load: "Target") -> str:
    """The workload's targets, or that there are none."""
    named = (("TTFT", load.ttft), ("TPOT", load.tpot))
    targets = [f"{name} {format_seconds(seconds)}" for name, seconds in named if seconds]
    return f"targets {', '.join(targets)}" if targets else "no targets"


def kept_told(kept: Sequence[str]) -> str:
    """The fields that were not varied, as the end of a sentence."""
    return f"; kept as written: {', '.join(kept)}" if kept else ""


def layout_cells(found: "Found | Pool", copies_of_layout: int) -> tuple[str, ...]:
    """Cells ep, tp, pp, copies, × and GPUs."""
    return (
        *(str(degree) for degree in (found.ep, found.tp, found.pp)),
        str(found.redundant_experts or "–"),
        str(copies_of_layout),
        f"{found.gpus:,}",
    )


def speed_cells(found: "Found | PoolPair") -> tuple[str, ...]:
    """Cells TTFT, TPOT, tokens/s and tokens/s a GPU."""
    return (
        format_seconds(found.ttft),
        format_seconds(found.tpot),
        f"{found.tokens_per_s:,.0f}",
        f"{found.tokens_per_s_per_gpu:,.1f}",
    )
