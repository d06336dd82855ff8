"""What a search found as lines of text that fit a terminal of 100 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moe_operator.cli.found_tables import kept_told, layout_cells, speed_cells, targets_told, title
from moe_operator.cli.tables import WIDTH, micro_batches, table

if TYPE_CHECKING:
    from moe_plan.search.result import Found, SearchResult, Written

_HEADER = ("ep", "tp", "pp", "copies", "×", "GPUs", "requests", "TTFT", "TPOT", "tokens/s", "a GPU")

_FRONT = 12
"""Points of the front that a table shows."""


def search_lines(result: "SearchResult") -> list[str]:
    """What a person wants to know of a search."""
    return [
        *_head(result),
        "",
        *_best(result),
        "",
        *_runners_up(result),
        "",
        *_front(result),
        *_written(result.written),
    ]


def _head(result: "SearchResult") -> list[str]:
    load = result.workload
    return [
        title(result),
        *textwrap.wrap(
            f"  looked at {result.counts.layouts:,} layouts that fit, in {result.counts.loads:,} predictions{kept_told(result.kept)}",
            WIDTH,
            subsequent_indent="  ",
        ),
        f"  workload: {load.concurrency:,} requests at once, {load.input_tokens:,} tokens in and "
        f"{load.output_tokens:,} out; {targets_told(load)}",
    ]


def _best(result: "SearchResult") -> list[str]:
    named = [
        ("most tokens/s", result.best),
        ("fewest GPUs", result.fewest),
        ("at its densest", result.densest),
        ("as written", result.written.layout if result.written else None),
    ]
    rows = [(name, *_cells(found)) for name, found in named if found is not None]
    return [*table(rows, header=("", *_HEADER)), *_details(result.best)]


def _details(best: "Found") -> list[str]:
    order = ", ".join(best.rank_order)
    return [f"most tokens/s with rankOrder [{order}] and {micro_batches(best.micro_batches)} a step"]


def _runners_up(result: "SearchResult") -> Iterator[str]:
    rows = table(
        ((f"{number}.", *_cells(found)) for number, found in enumerate(result.runners_up, start=2)),
        header=("runner-up", *_HEADER),
    )
    yield from rows[:2]
    for row, found in zip(rows[2:], result.runners_up, strict=True):
        yield row
        yield f"    {found.loses}"


def _front(result: "SearchResult") -> list[str]:
    points = _spread(result.front)
    told = f"{len(points)} of its {len(result.front)} points" if len(points) < len(result.front) else "all points"
    rows = [("✓" if found.meets else "", *_cells(found)) for found in points]
    return [
        f"the front at any load ({told}): nothing has a higher rate with as short a TTFT and TPOT",
        *table(rows, header=("meets", *_HEADER)),
    ]


def _spread(points: "Sequence[Found]") -> "list[Found]":
    """The first, the last and evenly many between."""
    if len(points) <= _FRONT:
        return list(points)
    return [points[round(i * (len(points) - 1) / (_FRONT - 1))] for i in range(_FRONT)]


def _written(written: "Written | None") -> Iterator[str]:
    if written is None:
        return
    if written.layout is not None:
        loses = written.layout.loses
        yield from ["", f"as written: {loses}" if loses else "as written it is the best"]
        return
    yield ""
    for violation in written.violations:
        yield from textwrap.wrap(f"not valid as written: {violation}", WIDTH, subsequent_indent="  ")
    if written.neighbours:
        rows = [(f"{max(0.0, near.loss):.1%}", *_cells(near)) for near in written.neighbours]
        yield from ["the nearest valid layouts, by the share of the best one's tokens/s that they lose", ""]
        yield from table(rows, header=("loss", *_HEADER))


def _cells(found: "Found") -> tuple[str, ...]:
    return (*layout_cells(found, found.replicas), f"{found.concurrency:,}", *speed_cells(found))
