"""The layouts nearest to one that is not valid: fewest changed fields, then closest GPU count, then fastest."""

import math
from collections.abc import Iterator
from itertools import groupby, islice

from moe_plan.rules import MAX_WORLD, divisors, expert_rules, valid_tp
from moe_plan.search.choice import Choice, Domain, Forecast, choices, forecasts, merit
from moe_plan.spec import MAX_GPUS
from moe_plan.subject import Subject

SHOWN = 3
"""Layouts that are told."""


def nearest(subject: Subject) -> tuple[str, ...]:
    """Up to three layouts that satisfy every rule of the layout, as text: 'ep 16, tp 8, pp 1 (128 GPUs)'.

    A degree that is auto counts as unchanged whatever it becomes. Classes of equally near layouts are worked out one
    after the other, so that few need a prediction.
    """
    return tuple(_describe(subject, found.draft.choice) for found in neighbours(subject))


def neighbours(subject: Subject) -> tuple[Forecast, ...]:
    """The same layouts with what is predicted of them."""
    return tuple(islice(_nearest_first(subject), SHOWN))


def _nearest_first(subject: Subject) -> Iterator[Forecast]:
    target = _target_gpus(subject)
    most = min(MAX_WORLD, max(MAX_GPUS, 2 * target)) if target <= MAX_WORLD else MAX_GPUS

    def distance(choice: Choice) -> tuple[int, float]:
        return changed_fields(subject, choice), round(abs(math.log(choice.layout.world / target)), 9)

    candidates = sorted(choices(subject, _domain(subject), most), key=distance)
    for _, near in groupby(candidates, key=distance):
        yield from sorted(forecasts(subject, near), key=lambda found: merit(subject, found))


def _domain(subject: Subject) -> Domain:
    """Values that divide evenly, and the given ones with the copies that they need."""
    parallelism = subject.spec.parallelism
    given = () if parallelism.ep == "auto" else (parallelism.ep,)
    even = {*divisors(subject.experts), *divisors(subject.experts + parallelism.redundant_experts)}
    eps = sorted(ep for ep in {*even, *given} if ep <= MAX_WORLD)
    layers = len(subject.shape.layers)
    return Domain(
        experts=tuple((ep, redundant) for ep in eps for redundant in _redundancies(subject, ep)),
        tp=valid_tp(subject),
        pp=tuple(range(1, layers + 1)),
    )


def _redundancies(subject: Subject, ep: int) -> tuple[int, ...]:
    """The given number of copies, or none; where ep cannot have as many, the next fewer and the next more."""
    given, logical = subject.spec.parallelism.redundant_experts, subject.experts
    left_over = (logical + given) % ep
    divides = not any(expert_rules(subject, ep, given))
    tried = (given, 0) if divides else (given - left_over, given + ep - left_over)
    return tuple(r for r in dict.fromkeys(tried) if r >= 0 and not any(expert_rules(subject, ep, r)))


def changed_fields(subject: Subject, choice: Choice) -> int:
    """Fields of the manifest that must change for this choice."""
    parallelism, layout = subject.spec.parallelism, choice.layout
    degrees = ((parallelism.ep, layout.ep), (parallelism.tp, layout.tp), (parallelism.pp, layout.pp))
    changed = sum(given not in ("auto", value) for given, value in degrees)
    more_gpus = parallelism.gpus is not None and layout.world > parallelism.gpus
    return changed + (choice.redundant != parallelism.redundant_experts) + more_gpus


def _target_gpus(subject: Subject) -> int:
    """GPUs that the manifest asks for, as far as it says: its gpus, or the product of the degrees it gives."""
    parallelism = subject.spec.parallelism
    degrees = [d for d in (parallelism.ep, parallelism.tp, parallelism.pp) if isinstance(d, int)]
    if parallelism.gpus is not None:
        return parallelism.gpus
    return math.prod(degrees)


def _describe(subject: Subject, choice: Choice) -> str:
    layout = choice.layout
    redundant = ""
    if choice.redundant != subject.spec.parallelism.redundant_experts:
        redundant = f", redundantExperts {choice.redundant}"
    gpus = "1 GPU" if layout.world == 1 else f"{layout.world:,} GPUs"
    return f"ep {layout.ep}, tp {layout.tp}, pp {layout.pp}{redundant} ({gpus})"
