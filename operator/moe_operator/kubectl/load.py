"""What frontends measure of themselves: requests, KV cache, speed, and how evenly experts are loaded. Pure.

Speed is told of every engine, the rest of the bundled runtime alone: the names of its metrics stand in its own
frontend/metrics.py. Rates and medians are those of the time between two readings of /metrics; the experts' tokens are
counted since the ranks' start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_operator.cli.tables import table
from moe_operator.engines import engine
from moe_operator.reconcile.model import Endpoint
from moe_operator.samples import by_label, measure, parse_samples
from moe_plan.plan import Plan
from moe_plan.units import format_seconds

SLOW = 1.3
"""A slot's compute time over the median's from which on it is worth a line."""
SHOWN = 8
"""Experts and layers that are shown."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Two readings of one frontend's /metrics; both are empty where it gave none, for the reason given."""

    replica: int
    before: str
    after: str
    seconds: float
    why_none: str = ""


def load_lines(plan: Plan, readings: Sequence[Readings]) -> list[str]:
    """A line for each replica, then its busiest experts and its most uneven layers."""
    rows = [_row(plan, one) for one in readings if one.after]
    header = ("replica", "running", "waiting", "KV used", "tokens/s", "TTFT", "TPOT", "communication", "ranks lost")
    lines = table(rows, header=header) if rows else []
    lines += [f"replica {one.replica}: no figures: {one.why_none}" for one in readings if not one.after]
    lines += [line for one in readings for line in _slowest(one)]
    for one in readings:
        lines += _experts(plan, one, alone=len(readings) == 1)
    return lines


def _row(plan: Plan, one: Readings) -> tuple[str, ...]:
    before, after = parse_samples(one.before), parse_samples(one.after)
    found = measure(Endpoint(answered=True), before, after, one.seconds, engine(plan.engine).metrics)
    used, pages = after.get(("moe_kv_pages_used", ""), 0.0), after.get(("moe_kv_pages", ""), 0.0)
    return (
        str(one.replica),
        _count(after.get(("moe_running_requests", ""))),
        _count(after.get(("moe_waiting_requests", ""))),
        f"{used / pages:.0%}" if pages else "–",
        _count(found.tokens_per_second),
        _seconds(found.ttft),
        _seconds(found.tpot),
        _communication(one),
        _count(after.get(("moe_rank_restarts_total", ""))),
    )


def _communication(one: Readings) -> str:
    """Share of the stages' time that was spent in communication, in the time between the readings."""
    before, after = (by_label(text, "moe_stage_seconds_total", "part") for text in (one.before, one.after))
    gained = {part: seconds - before.get(part, 0.0) for part, seconds in after.items()}
    return f"{gained['communication'] / gained['step']:.0%}" if gained.get("step") else "–"


def _slowest(one: Readings) -> Iterator[str]:
    """The slot that computes longest, where it is told and holds the others up."""
    paces = by_label(one.after, "moe_slot_pace", "slot")
    slot = max(paces, key=lambda slot: paces[slot], default="")
    if slot and paces[slot] > SLOW:
        yield f"replica {one.replica}: slot {slot} computes {paces[slot]:.1f} times as long as the median slot"


def _experts(plan: Plan, one: Readings, *, alone: bool) -> Iterator[str]:
    tokens = by_label(one.after, "moe_expert_tokens_total", "expert")
    if not sum(tokens.values()):
        return
    mean = sum(tokens.values()) / len(tokens)
    busiest = sorted(tokens, key=lambda expert: (-tokens[expert], int(expert)))[:SHOWN]
    whose = "" if alone else f" of replica {one.replica}"
    yield ""
    yield f"busiest of {len(tokens)} experts{whose}, over all layers since the ranks' start"
    rows = [
        (expert, str(int(expert) // plan.experts.per_rank), f"{tokens[expert]:,.0f}", f"{tokens[expert] / mean:.2f}")
        for expert in busiest
    ]
    yield from table(rows, header=("physical expert", "shard", "tokens", "of an even share"))
    yield from _layers(one)


def _layers(one: Readings) -> Iterator[str]:
    uneven = by_label(one.after, "moe_expert_load_max_over_mean", "layer")
    if uneven:
        worst = sorted(uneven.items(), key=lambda item: (-item[1], int(item[0])))[:SHOWN]
        yield ""
        yield "layers with the most uneven load"
        yield from table([(layer, f"{share:.2f}") for layer, share in worst], header=("layer", "busiest / mean"))


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else format_seconds(value)
