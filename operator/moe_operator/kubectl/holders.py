"""Which pod holds a rank or a stage: from the plan of a replica and its pods. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import (
    ATTEMPT_LABEL,
    PLAN_KEY,
    REPLICA_LABEL,
    SLOT_LABEL,
    container_states,
    label_number,
    name,
    node_of,
    terminating,
)
from moe_plan.errors import PlanError
from moe_plan.layout import Coordinate, Layout
from moe_plan.plan import Plan


class NotHeldError(PlanError):
    """There is no such plan, replica, rank, stage or pod."""


def replica_statuses(deployment: Object) -> Sequence[Mapping[str, Any]]:
    """What the status says of each replica. Raises NotHeldError where there is none."""
    told: Sequence[Mapping[str, Any]] = (deployment.get("status") or {}).get("replicaStatuses") or []
    if not told:
        raise NotHeldError(f"{name(deployment)} has no replicas yet; see kubectl moe why {name(deployment)}")
    return told


def _hash(deployment: Object, replica: int) -> str:
    told = replica_statuses(deployment)
    found = next((str(one["hash"]) for one in told if one["index"] == replica), None)
    if found is None:
        known = ", ".join(str(one["index"]) for one in told)
        raise NotHeldError(f"{name(deployment)} has no replica {replica}; its replicas: {known}")
    return found


def plan_of(deployment: Object, config_maps: Iterable[Object], replica: int | None = None) -> Plan:
    """The plan that a replica runs, or that the spec asks for. Raises NotHeldError where there is none."""
    status = deployment.get("status") or {}
    wanted = (status.get("plan") or {}).get("hash") if replica is None else _hash(deployment, replica)
    if not wanted:
        raise NotHeldError(f"{name(deployment)} has no plan; see kubectl moe why {name(deployment)}")
    for config_map in config_maps:
        text = (config_map.get("data") or {}).get(PLAN_KEY)
        plan = None if text is None else _read(text, name(config_map))
        if plan is not None and plan.hash == wanted:
            return plan
    raise NotHeldError(f"{name(deployment)}: the ConfigMap of plan {wanted[:8]} is not there; is the operator running?")


def _read(text: str, holder: str) -> Plan:
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        message = f"ConfigMap {holder} holds a plan of another version; use the kubectl moe of the operator's version"
        raise NotHeldError(message) from error


def layout_of(plan: Plan) -> Layout:
    """The layout of a plan."""
    return Layout(plan.degrees.ep, plan.degrees.tp, plan.degrees.pp, plan.rank_order)


def slot_of_rank(plan: Plan, rank: int) -> int:
    """The slot that holds a rank. Raises NotHeldError for a rank that the plan has not."""
    if not 0 <= rank < plan.degrees.world:
        raise NotHeldError(f"{plan.name} has no rank {rank}; its ranks are 0 to {plan.degrees.world - 1}")
    return rank // plan.ranks_per_slot


def slots_of_stage(plan: Plan, stage: int) -> tuple[int, ...]:
    """The slots that hold ranks of a stage. Raises NotHeldError for a stage that the plan has not."""
    if not 0 <= stage < plan.degrees.pp:
        raise NotHeldError(f"{plan.name} has no stage {stage}; its stages are 0 to {plan.degrees.pp - 1}")
    return tuple(slot for slot in range(plan.slots) if any(c.pp == stage for c in coordinates(plan, slot)))


def coordinates(plan: Plan, slot: int) -> Iterator[Coordinate]:
    """Coordinates of a slot's ranks, in order."""
    layout = layout_of(plan)
    return (layout.coordinate(rank) for rank in ranks_of(plan, slot))


def ranks_of(plan: Plan, slot: int) -> range:
    """Ranks of a slot."""
    return range(slot * plan.ranks_per_slot, (slot + 1) * plan.ranks_per_slot)


def pod_of(pods: Iterable[Object], replica: int, slot: int) -> Object:
    """The pod of a slot: of its latest attempt, and none that is being deleted while there is another."""
    found = [
        pod for pod in pods if (label_number(pod, REPLICA_LABEL), label_number(pod, SLOT_LABEL)) == (replica, slot)
    ]
    if not found:
        raise NotHeldError(f"slot {slot} of replica {replica} has no pod")
    return max(found, key=lambda pod: (not terminating(pod), label_number(pod, ATTEMPT_LABEL) or 0))


def caption(plan: Plan, pod: Object, slot: int, rank: int | None) -> str:
    """Whose log follows."""
    where = f"pod {name(pod)}, container {speaking_container(pod)}, node {node_of(pod) or 'none yet'}"
    if rank is None:
        return f"ranks {spelt(ranks_of(plan, slot))}: {where}"
    found = layout_of(plan).coordinate(rank)
    return f"rank {rank} (stage {found.pp}, shard {found.ep}, tp {found.tp}): {where}"


def speaking_container(pod: Object) -> str:
    """The container whose log tells where a pod stands: the init container that is not done, or the one that computes."""
    for state in container_states(pod):
        ended = (state.get("state") or {}).get("terminated") or {}
        if state.get("init") and ended.get("exitCode") != 0:
            return str(state["name"])
    return "runtime"


def spelt(numbers: Sequence[int]) -> str:
    """Ascending numbers for people: 0–3, or 0, 4, …, 12."""
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}–{numbers[-1]}"
    if len(numbers) > 3:
        return f"{numbers[0]}, {numbers[1]}, …, {numbers[-1]}"
    return ", ".join(map(str, numbers))
