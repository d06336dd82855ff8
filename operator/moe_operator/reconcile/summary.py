"""The status: conditions, the plan's figures, what was measured, and each replica, out of one decision."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

from moe_operator import status as models
from moe_operator.reconcile.conditions import conditions
from moe_operator.reconcile.lifecycle import Outcome
from moe_operator.reconcile.objects import DEPLOYMENT_LABEL, holds, name
from moe_operator.reconcile.picture import Picture
from moe_operator.reconcile.revisions import Revision
from moe_plan.units import format_bytes, format_seconds

STEADY = 0.1
"""A measured figure is written anew when it has changed by more than this share."""
MISSES_SHOWN = 8
MISS = 256
SENTENCE = 1024
NODE_CHARACTERS = 2**18
"""Characters of node names in a status: the replicas beyond have theirs in their records alone."""

Phase = Literal["Pending", "Starting", "Ready", "Restarting", "Failed", "Terminating"]


def summarise(picture: Picture) -> dict[str, Any]:
    """The whole status as JSON. What has not changed is word for word as before, times included."""
    deployment = picture.view.deployment
    before = deployment.get("status") or {}
    status = models.Status(
        observed_generation=picture.generation,
        replicas=sum(outcome.replica.record is not None for outcome in picture.outcomes),
        ready_replicas=sum(outcome.serving for outcome in picture.outcomes),
        ready=f"{picture.serving}/{picture.asked}",
        selector=f"{DEPLOYMENT_LABEL}={name(deployment)}",
        conditions=conditions(picture, before.get("conditions") or ()),
        plan=_figures(picture.main),
        measured=_measured(picture, before.get("measured")),
        replica_statuses=replica_statuses(picture.outcomes),
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _figures(revision: Revision | None) -> models.PlanFigures | None:
    if revision is None:
        return None
    plan = revision.plan
    degrees = plan.degrees
    return models.PlanFigures(
        hash=plan.hash,
        model=plan.model.name[:SENTENCE],
        degrees=f"ep{degrees.ep}·tp{degrees.tp}·pp{degrees.pp}",
        gpus=degrees.world,
        memory_per_gpu=format_bytes(max(stage.total - stage.kv_cache for stage in plan.memory)),
        ttft=format_seconds(plan.prediction.ttft),
        tpot=format_seconds(plan.prediction.tpot),
        tokens_per_second=_number(plan.prediction.tokens_per_s),
    )


def _measured(picture: Picture, before: Any) -> models.MeasuredFigures | None:
    """Medians over the replicas that serve, and the sum of their rates; as before while nothing has changed much."""
    asked = [o.replica.endpoint for o in picture.outcomes if o.serving and o.replica.endpoint is not None]
    rates = [endpoint.tokens_per_second for endpoint in asked if endpoint.tokens_per_second is not None]
    ttft = [endpoint.ttft for endpoint in asked if endpoint.ttft is not None]
    tpot = [endpoint.tpot for endpoint in asked if endpoint.tpot is not None]
    if not (rates and ttft and tpot):
        return None
    found = models.MeasuredFigures(
        ttft=_rounded(median(ttft)), tpot=_rounded(median(tpot)), tokens_per_second=_number(sum(rates))
    )
    return _steady(found, before)


def _steady(found: models.MeasuredFigures, before: Any) -> models.MeasuredFigures:
    try:
        old = models.MeasuredFigures.model_validate(before)
        seconds = [(parse_seconds(a), parse_seconds(b)) for a, b in ((found.ttft, old.ttft), (found.tpot, old.tpot))]
    except ValueError:
        return found
    pairs = [*seconds, (float(found.tokens_per_second), float(old.tokens_per_second))]
    return old if all(abs(new - was) <= STEADY * was for new, was in pairs) else found


def replica_statuses(outcomes: Sequence[Outcome]) -> tuple[models.ReplicaStatus, ...]:
    """The first replicas one by one, within what an object of the API server holds."""
    shown, room = [], NODE_CHARACTERS
    for outcome in outcomes[: models.MAX_REPLICAS_SHOWN]:
        nodes = outcome.replica.record.nodes if outcome.replica.record is not None else ()
        room -= sum(map(len, nodes))
        shown.append(_replica(outcome, nodes if room >= 0 else ()))
    return tuple(shown)


def _replica(outcome: Outcome, nodes: tuple[str, ...]) -> models.ReplicaStatus:
    replica, record = outcome.replica, outcome.replica.record
    status = models.ReplicaStatus(
        index=replica.index,
        phase=phase(outcome),
        hash="",
        ready_slots=sum(holds(pod, "Ready") for pod in replica.pods.values()),
        slots=replica.revision.plan.slots if replica.revision is not None else 0,
        nodes=nodes,
        placement_score="",
    )
    if record is None:
        return status
    told = {
        "hash": record.plan,
        "slots": status.slots or len(record.nodes),
        "placement_score": "" if record.score is None else f"{record.score:.2f}",
        "placement_misses": tuple(_cut(miss, MISS) for miss in record.misses[:MISSES_SHOWN]),
        "restarts": record.restarts,
        "last_reason": record.last_reason,
        "last_failure": None if record.last_failure is None else _cut(record.last_failure, SENTENCE),
    }
    return status.model_copy(update=told)


def phase(outcome: Outcome) -> Phase:
    """Where a replica stands, in one word."""
    replica, record = outcome.replica, outcome.replica.record
    if outcome.leaving:
        return "Terminating"
    if record is None or not record.nodes:
        return "Pending"
    if record.failed is not None:
        return "Failed"
    if outcome.serving:
        return "Ready"
    again = outcome.restarting or (record.last_failure is not None and not replica.whole)
    return "Restarting" if again else "Starting"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _number(rate: float) -> int:
    return max(0, min(round(rate), 2**31 - 1))


def _rounded(seconds: float) -> str:
    return format_seconds(seconds)


def parse_seconds(text: str) -> float:
    """What `format_seconds` wrote, as a number again. Raises ValueError for anything else."""
    number, _, unit = text.partition(" ")
    scales: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    if unit not in scales:
        raise ValueError(f"{text!r} is not a duration")
    return float(number) * scales[unit]
