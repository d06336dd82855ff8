"""Why one layout is not taken: the target that it misses most, or where its time goes that the best one's does not."""

from dataclasses import dataclass

from moe_plan.plan import TimeParts
from moe_plan.search.choice import Forecast, Miss, misses, room
from moe_plan.search.result import Found
from moe_plan.subject import Subject
from moe_plan.units import format_seconds


@dataclass(frozen=True, slots=True)
class Predicted:
    """A layout as it is told, and as a plan of it is predicted."""

    subject: Subject
    """The subject with the layout's number of replicas and of micro-batches."""
    found: Found
    forecast: Forecast


_ALIKE = 5e-4
"""Rates that differ by less are told as the same."""

_PARTS = {
    "compute": "arithmetic",
    "memory": "reading weights and cache",
    "tp_all_reduce": "all-reduce",
    "dispatch": "dispatch",
    "combine": "combine",
    "pp_send": "sends between stages",
    "pp_bubble": "the pipeline's bubble",
    "overhead": "overhead",
    "queueing": "queueing",
}
"""Fields of `TimeParts` for people."""


def why_it_loses(other: Predicted, best: Predicted) -> str:
    """Why a layout is not the best."""
    if best.found.meets and not other.found.meets:
        return binding(other)
    behind = 1 - other.found.tokens_per_s / best.found.tokens_per_s
    if behind > _ALIKE:
        return f"{_percent(behind)} fewer tokens/s: {_longer(other, best)}"
    if other.found.gpus > best.found.gpus:
        return f"as fast, on {other.found.gpus - best.found.gpus:,} GPUs more"
    return "as fast, with more stages or a larger tp"


def binding(missing: Predicted) -> str:
    """The target that is missed by the largest factor: 'TPOT 62 ms misses 50 ms'."""
    workload, missed = missing.subject.spec.workload, most_missed(missing)
    if missed == "concurrency":
        held = room(missing.subject, missing.forecast)
        return f"its KV caches hold {held:,} of {workload.concurrency:,} requests"
    predicted, target = getattr(missing.found, missed), getattr(workload, missed)
    return f"{missed.upper()} {format_seconds(predicted)} misses {format_seconds(target)}"


def most_missed(missing: Predicted) -> Miss:
    """What is missed by the largest factor."""
    return max(misses(missing.subject, missing.forecast), key=lambda miss: miss[1])[0]


def largest_part(parts: TimeParts) -> str:
    """What takes most of a time: 'reading weights and cache, 8.1 ms'."""
    name = max(_PARTS, key=lambda part: float(getattr(parts, part)))
    return f"{_PARTS[name]}, {format_seconds(getattr(parts, name))}"


def _longer(other: Predicted, best: Predicted) -> str:
    """The part that takes the most time more, over the life of a request, told for each of its tokens."""
    tokens = other.subject.spec.workload.output_tokens

    def more_s(part: str) -> float:
        return _life_s(other.forecast, part, tokens) - _life_s(best.forecast, part, tokens)

    name = max(_PARTS, key=more_s)
    return f"{_PARTS[name]} takes {format_seconds(more_s(name) / tokens)} more a token"


def _life_s(found: Forecast, part: str, tokens: int) -> float:
    first, later = found.prediction.ttft_parts, found.prediction.tpot_parts
    return float(getattr(first, part) + (tokens - 1) * getattr(later, part))


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
