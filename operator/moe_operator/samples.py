"""What an endpoint measures of itself, out of the Prometheus text format: the figures of a deployment's speed. Pure."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from moe_operator.engines import Metrics
from moe_operator.reconcile.model import Endpoint, Slow

MOVED = 0.1
SLOW_MOVED = 0.25
_SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? ([-+.eE\d]+|\+Inf|NaN)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Samples = Mapping[tuple[str, str], float]
"""By metric and bucket bound; the bound is empty for counters."""


def parse_samples(text: str) -> dict[tuple[str, str], float]:
    """Samples of the Prometheus text format, summed over all labels but a bucket's bound: engines label each shard."""
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for name, labels, value in _SAMPLE.findall(text):
        found[name, dict(_LABEL.findall(labels)).get("le", "")] += float(value)
    return dict(found)


def by_label(text: str, metric: str, label: str) -> dict[str, float]:
    """Samples of a metric by one of its labels, summed over the others."""
    found: defaultdict[str, float] = defaultdict(float)
    for name, labels, value in _SAMPLE.findall(text):
        if name == metric:
            found[dict(_LABEL.findall(labels)).get(label, "")] += float(value)
    return dict(found)


def measure(known: Endpoint, before: Samples, after: Samples, seconds: float, metrics: Metrics) -> Endpoint:
    """The figures of the time between two samplings; a figure that nothing was measured for stays as known."""
    if not before:
        return replace(known, answered=True, said="")
    tokens = after.get((metrics.tokens, ""), 0.0) - before.get((metrics.tokens, ""), 0.0)
    return Endpoint(
        answered=True,
        ttft=_median(f"{metrics.ttft}_bucket", before, after) or known.ttft,
        tpot=_median(f"{metrics.tpot}_bucket", before, after) or known.tpot,
        tokens_per_second=tokens / seconds if tokens > 0 and seconds > 0 else known.tokens_per_second,
    )


def steady(known: Endpoint, new: Endpoint) -> Endpoint:
    """The new figures where they have moved, else the known ones."""
    return replace(
        new,
        ttft=_moved(known.ttft, new.ttft),
        tpot=_moved(known.tpot, new.tpot),
        tokens_per_second=_moved(known.tokens_per_second, new.tokens_per_second),
        slow=_as_slow(known.slow, new.slow),
    )


def _as_slow(known: tuple[Slow, ...], new: tuple[Slow, ...]) -> tuple[Slow, ...]:
    """The known slow slots, where the same are about as slow."""
    same = [one.slot for one in known] == [one.slot for one in new]
    near = all(abs(a.factor - b.factor) <= SLOW_MOVED * a.factor for a, b in zip(known, new, strict=False))
    return known if same and near else new


def _moved(known: float | None, new: float | None) -> float | None:
    return known if known is not None and new is not None and abs(new - known) <= MOVED * known else new


def _median(metric: str, before: Samples, after: Samples) -> float | None:
    """Median of what a histogram's buckets have gained, interpolated within its bucket."""
    gained = sorted(
        (float(bound), count - before.get((name, bound), 0.0))
        for (name, bound), count in after.items()
        if name == metric
    )
    if not gained or gained[-1][1] <= 0:
        return None
    half, low, below = gained[-1][1] / 2, 0.0, 0.0
    for bound, count in gained:
        if count >= half:
            return low if bound == float("inf") else low + (bound - low) * (half - below) / (count - below)
        low, below = bound, count
    return low
