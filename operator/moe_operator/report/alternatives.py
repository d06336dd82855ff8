"""The other layouts of the same model on at most as many GPUs, and which have most tokens/s for their time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from moe_plan.plan import Plan
from moe_plan.search import Forecast, choices, forecasts, free_domain
from moe_plan.spec import MAX_GPUS
from moe_plan.subject import Subject, resolve

Target = Literal["tpot", "ttft"]
TARGETS: tuple[Target, ...] = ("tpot", "ttft")


@dataclass(frozen=True, slots=True)
class Alternative:
    """One layout and what it is predicted to do with the manifest's workload."""

    ep: int
    tp: int
    pp: int
    redundant: int
    gpus: int
    """Of one replica."""
    ttft: float
    tpot: float
    tokens_per_s_per_gpu: float
    fronts: frozenset[Target]
    """Targets over which no other layout has as many tokens/s a GPU at as little time."""
    planned: bool
    """Whether it is the plan's."""


def alternatives(subject: Subject, plan: Plan) -> tuple[Alternative, ...]:
    """Every layout of up to the plan's GPUs that obeys the algebra and fits, with the plan's, by TPOT."""
    free = _freed(subject)
    candidates = choices(free, free_domain(free), min(MAX_GPUS, plan.degrees.world))
    return _ranked([_alternative(found, plan) for found in forecasts(free, candidates)])


def _freed(subject: Subject) -> Subject:
    """The subject with every degree auto, and at least one replica so that there is a rate."""
    spec = subject.spec
    parallelism = spec.parallelism.model_copy(update={"ep": "auto", "tp": "auto", "pp": "auto"})
    free = spec.model_copy(update={"parallelism": parallelism, "replicas": max(1, spec.replicas)})
    config = None if spec.model.config_from is None else subject.config
    return resolve(subject.deployment.model_copy(update={"spec": free}), config)


def _alternative(found: Forecast, plan: Plan) -> Alternative:
    layout, prediction = found.draft.choice.layout, found.prediction
    degrees = plan.degrees
    return Alternative(
        layout.ep,
        layout.tp,
        layout.pp,
        found.draft.choice.redundant,
        layout.world,
        prediction.ttft,
        prediction.tpot,
        prediction.tokens_per_s_per_gpu,
        fronts=frozenset(),
        planned=(layout.ep, layout.tp, layout.pp) == (degrees.ep, degrees.tp, degrees.pp),
    )


def _ranked(found: Sequence[Alternative]) -> tuple[Alternative, ...]:
    """By TPOT, each with the fronts that it is on."""
    fronts = {target: _front(found, target) for target in TARGETS}
    marked = (replace(one, fronts=frozenset(t for t in TARGETS if _layout(one) in fronts[t])) for one in found)
    return tuple(sorted(marked, key=lambda one: (one.tpot, *_layout(one))))


def _front(found: Sequence[Alternative], target: Target) -> set[tuple[int, ...]]:
    """Layouts with more tokens/s a GPU than every layout that is as quick."""
    front, most = set(), -1.0
    for one in sorted(found, key=lambda one: (getattr(one, target), -one.tokens_per_s_per_gpu, *_layout(one))):
        if one.tokens_per_s_per_gpu > most:
            front.add(_layout(one))
            most = one.tokens_per_s_per_gpu
    return front


def _layout(one: Alternative) -> tuple[int, ...]:
    return one.gpus, one.tp, one.pp, one.ep, one.redundant
