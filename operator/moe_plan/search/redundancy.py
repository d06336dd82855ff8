"""What copies of experts would bring to a plan made by measured loads: the same degrees with other numbers of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moe_plan.errors import ManifestError
from moe_plan.loads import ExpertLoads
from moe_plan.plan import Plan, Prediction
from moe_plan.planner import make_plan
from moe_plan.spec import MoEDeployment

MORE = (0, 1, 2, 4)
"""Further physical experts a rank that are tried."""


@dataclass(frozen=True, slots=True)
class WithCopies:
    """The plan with another number of copies."""

    redundant: int
    per_rank: int
    imbalance: float
    """Tokens of the fullest ep coordinate over the mean, as a mean over the MoE layers."""
    prediction: Prediction | None
    """None where it does not fit into the memory."""


def with_copies_of(
    deployment: MoEDeployment, plan: Plan, config: dict[str, Any] | None, loads: ExpertLoads
) -> tuple[WithCopies, ...]:
    """The plan itself, and with 1, 2 and 4 further copies on each rank as far as there are ranks for them."""
    return tuple(_tried(deployment, plan, config, loads, redundant) for redundant in _numbers(plan))


def _numbers(plan: Plan) -> Iterator[int]:
    experts, ep = plan.experts, plan.degrees.ep
    for more in MORE:
        if experts.per_rank + more <= experts.logical:
            yield experts.redundant + more * ep


def _tried(
    deployment: MoEDeployment, plan: Plan, config: dict[str, Any] | None, loads: ExpertLoads, redundant: int
) -> WithCopies:
    from moe_plan.dealer import Dealer  # noqa: PLC0415  # numpy, which a plan without loads does without

    degrees = plan.degrees.model_dump() | {"redundant_experts": redundant, "gpus": None}
    parallelism = deployment.spec.parallelism.model_copy(update=degrees)
    spec = deployment.spec.model_copy(update={"parallelism": parallelism})
    try:
        found = make_plan(deployment.model_copy(update={"spec": spec}), config, loads=loads)
    except ManifestError:
        per_rank = (plan.experts.logical + redundant) // plan.degrees.ep
        return WithCopies(redundant, per_rank, Dealer(loads).evenness(redundant, plan.degrees.ep).imbalance, None)
    assert found.expert_loads is not None
    return WithCopies(redundant, found.experts.per_rank, found.expert_loads.imbalance, found.prediction)
