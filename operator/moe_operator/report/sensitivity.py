"""How the prediction answers to another load: the same degrees planned anew at other concurrencies and lengths."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from moe_plan.errors import ManifestError
from moe_plan.loads import ExpertLoads
from moe_plan.plan import Plan, Prediction
from moe_plan.planner import make_plan
from moe_plan.spec import MAX_DEGREE, MoEDeployment

Knob = Literal["concurrency", "input_tokens", "output_tokens"]
Predict = Callable[[MoEDeployment], Prediction]
FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Sample:
    """The prediction at one value of a knob, or why there is none."""

    value: int
    prediction: Prediction | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One knob of the workload over its values; everything else as in the manifest."""

    knob: Knob
    given: int
    """The manifest's value."""
    samples: tuple[Sample, ...]


def sweeps(
    deployment: MoEDeployment, plan: Plan, config: dict[str, Any] | None, loads: ExpertLoads | None = None
) -> tuple[Sweep, ...]:
    """Concurrency, prompt length and output length, each from an eighth to eight times the manifest's."""
    fixed = _with_degrees(deployment, plan)
    knobs: tuple[Knob, ...] = ("concurrency", "input_tokens", "output_tokens")
    predict = partial(_predict, config=config, loads=loads)
    return tuple(_sweep(fixed, knob, predict) for knob in knobs)


def _with_degrees(deployment: MoEDeployment, plan: Plan) -> MoEDeployment:
    """The deployment with the plan's degrees, and at least one replica so that there is a rate."""
    degrees = plan.degrees.model_dump()
    parallelism = deployment.spec.parallelism.model_copy(update=degrees | {"redundant_experts": plan.experts.redundant})
    spec = deployment.spec.model_copy(update={"parallelism": parallelism, "replicas": max(1, plan.replicas)})
    return deployment.model_copy(update={"spec": spec})


def _sweep(deployment: MoEDeployment, knob: Knob, predict: Predict) -> Sweep:
    given = getattr(deployment.spec.workload, knob)
    return Sweep(knob, given, tuple(_sample(deployment, knob, value, predict) for value in _around(given)))


def _around(given: int) -> Iterator[int]:
    yield from sorted({min(MAX_DEGREE, max(1, round(given * factor))) for factor in FACTORS})


def _sample(deployment: MoEDeployment, knob: Knob, value: int, predict: Predict) -> Sample:
    workload = deployment.spec.workload.model_copy(update={knob: value})
    spec = deployment.spec.model_copy(update={"workload": workload})
    try:
        return Sample(value, predict(deployment.model_copy(update={"spec": spec})))
    except ManifestError as error:
        return Sample(value, None, error.violations[0].message)


def _predict(deployment: MoEDeployment, config: dict[str, Any] | None, loads: ExpertLoads | None) -> Prediction:
    return make_plan(deployment, config, loads=loads).prediction
