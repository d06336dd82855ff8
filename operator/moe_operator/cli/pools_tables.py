"""What a search of pools found as lines of text that fit a terminal of 100 columns."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moe_operator.cli.found_tables import kept_told, layout_cells, speed_cells, targets_told, title
from moe_operator.cli.tables import WIDTH, table
from moe_plan.units import format_seconds

if TYPE_CHECKING:
    from moe_plan.pools.result import Comparison, Pool, PoolPair, PoolsResult
    from moe_plan.search.result import Found

_HEADER = ("ep", "tp", "pp", "copies", "×", "GPUs", "batch", "requests", "TTFT", "TPOT", "tokens/s", "a GPU")
_NOTHING = ("",) * 5


def pools_lines(result: "PoolsResult") -> list[str]:
    """What a person wants to know of a search of pools."""
    load = result.workload
    return [
        *_head(result),
        "",
        f"with up to {load.concurrency:,} requests at once: the most tokens/s",
        *_compared(result.at_workload, "tokens/s"),
        "",
        "with as many requests at once as it takes: the most tokens/s a GPU",
        *_compared(result.at_any_load, "tokens/s a GPU"),
        *_given(result),
    ]


def _head(result: "PoolsResult") -> list[str]:
    load = result.workload
    return [
        title(result),
        "  prefill and decode on pools of their own: an estimate, which neither the operator nor the bundled",
        f"  runtime executes; {result.pairs:,} pairs of pools{kept_told(result.kept)}",
        f"  workload: {load.input_tokens:,} tokens in and {load.output_tokens:,} out; {targets_told(load)}",
    ]


def _compared(found: "Comparison", figure: str) -> Iterator[str]:
    """The pools and the single pool under one load, and which is better."""
    rows = [*_pair(found.pools), *([] if found.single is None else [("single", *_single(found.single))])]
    yield from table(rows, header=("", *_HEADER)) if rows else []
    if found.pools is not None:
        yield _first_token(found.pools)
    yield from textwrap.wrap(_verdict(found, figure), WIDTH)


def _verdict(found: "Comparison", figure: str) -> str:
    if found.gain is None:
        return found.why
    better, other = ("the pools", "the single pool") if found.gain > 0 else ("the single pool", "the pools")
    ratio = max(1 + found.gain, 1 / (1 + found.gain)) - 1
    if ratio < 0.0005:
        return f"as many {figure} either way: {found.why}"
    return f"{better}: {ratio:.1%} more {figure} than {other}; {found.why}"


def _given(result: "PoolsResult") -> Iterator[str]:
    if result.given is None:
        return
    yield from ["", f"as given, with up to {result.workload.concurrency:,} requests at once"]
    yield from table(_pair(result.given), header=("", *_HEADER))
    yield _first_token(result.given)
    if not result.given.meets:
        missed = [
            f"{name} {format_seconds(reached)} misses {format_seconds(target)}"
            for name, reached, target in (
                ("TTFT", result.given.ttft, result.workload.ttft),
                ("TPOT", result.given.tpot, result.workload.tpot),
            )
            if target is not None and reached > target
        ]
        yield f"the given pools do not meet the targets: {', '.join(missed)}"


def _pair(pair: "PoolPair | None") -> "list[tuple[str, ...]]":
    if pair is None:
        return []
    whole = (f"{pair.gpus:,}", "", f"{pair.concurrency:,.0f}", *speed_cells(pair))
    return [("two pools", *_NOTHING, *whole), ("  prefill", *_pool(pair.prefill)), ("  decode", *_pool(pair.decode))]


def _pool(pool: "Pool") -> tuple[str, ...]:
    return (*layout_cells(pool, pool.workers), f"{pool.batch:,}", *_NOTHING)


def _single(found: "Found") -> tuple[str, ...]:
    return (
        *layout_cells(found, found.replicas),
        f"{found.batch_per_shard:,}",
        f"{found.concurrency:,}",
        *speed_cells(found),
    )


def _first_token(pair: "PoolPair") -> str:
    parts = pair.ttft_parts
    return (
        f"TTFT of them: prefill {format_seconds(parts.prefill)}, admission {format_seconds(parts.admission)}, "
        f"queueing {format_seconds(parts.queueing)} ({pair.prefill.utilisation:.0%} busy), "
        f"transfer {format_seconds(parts.transfer)}"
    )
