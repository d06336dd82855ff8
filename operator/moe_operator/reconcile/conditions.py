"""Conditions in kstatus form (https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md).

Reconciling and Stalled are never both true: a deployment that a person must act upon is Stalled, whatever else goes on.
Messages hold no times or counts of seconds, so that a condition changes only when the state does.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from moe_operator.reconcile import causes
from moe_operator.reconcile.lifecycle import Outcome
from moe_operator.reconcile.objects import DEPLOYMENT_LABEL, condition, controller, format_time, holds, labels, name
from moe_operator.reconcile.picture import Picture
from moe_operator.status import Condition, ConditionType
from moe_operator.verdict import reason, verdict

LONGEST = 16384
"""Characters of a message."""

DEGRADED = "Degraded"
"""Reason while replicas serve without a slot, as failure.policy degrade asks."""

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason and what to say of it."""

    reason: str
    message: str
    doing: str = ""
    """Reason of Reconciling, where it is another: what is done about it."""


_SCALED_TO_ZERO = Finding("ScaledToZero", "no replica is asked for")
_NOTHING_VALID: tuple[Status, Finding] = (
    "Unknown",
    Finding("NoPlan", "no replica is made while the spec has no plan; see ParallelismValid"),
)


def conditions(picture: Picture, before: Iterable[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """All conditions; one whose status is as before keeps its time."""
    since = {str(old.get("type")): old for old in before}
    blocked = next(_blocks(picture), None)
    progress = next(_progress(picture), None)
    found: list[tuple[ConditionType, Status, Finding]] = [
        ("Ready", *_ready(picture, blocked, progress)),
        ("Reconciling", *_reconciling(blocked, progress)),
        ("Stalled", *_stalled(blocked)),
        ("ParallelismValid", *_valid(picture)),
        ("Placed", *_placed(picture)),
        ("Available", *_available(picture)),
    ]
    return tuple(_condition(picture, since.get(kind, {}), kind, status, what) for kind, status, what in found)


def _condition(
    picture: Picture, old: Mapping[str, Any], kind: ConditionType, status: Status, what: Finding
) -> Condition:
    same = old.get("status") == status and isinstance(old.get("lastTransitionTime"), str)
    return Condition(
        type=kind,
        status=status,
        reason=what.reason,
        message=what.message if len(what.message) <= LONGEST else f"{what.message[: LONGEST - 1]}…",
        observed_generation=picture.generation,
        last_transition_time=old["lastTransitionTime"] if same else format_time(picture.view.now),
    )


def _blocks(picture: Picture) -> Iterator[Finding]:
    """What a person must act upon, the most general first."""
    if picture.refusal is not None:
        yield Finding(reason(picture.refusal), verdict(picture.refusal))
    if picture.gangless is not None:
        yield Finding(reason(picture.gangless), verdict(picture.gangless))
    foreign = [obj for obj in picture.taken if not _leftover(picture, obj)]
    if foreign:
        names = ", ".join(dict.fromkeys(f"{obj.get('kind', 'Pod')} {name(obj)}" for obj in foreign))
        yield Finding("NameTaken", f"not this deployment's, and left alone: {names}; delete or rename it, or this")
    yield from _hopeless(picture)
    if picture.view.refused is not None:
        refusal = causes.refusal(picture.view.refused)
        yield Finding(refusal.reason, refusal.message)
    yield from _no_room_to_roll(picture)


def _hopeless(picture: Picture) -> Iterator[Finding]:
    """Replicas that do not come up until somebody does something."""
    for outcome in picture.wanted:
        trouble, record = outcome.trouble, outcome.replica.record
        if record is None:
            continue
        where = f"replica {outcome.replica.index}"
        if record.failed is not None and trouble is not None:
            yield Finding(trouble.reason, f"{where}: {trouble.message}; {_given_up(picture, outcome)}")
        elif trouble is not None and not trouble.passes:
            yield Finding(trouble.reason, f"{where}: {trouble.message}")
        elif record.last_reason in causes.REFUSALS and not outcome.replica.pods:
            yield Finding(record.last_reason, f"{where}: {record.last_failure}")


def _given_up(picture: Picture, outcome: Outcome) -> str:
    record = outcome.replica.record
    assert record is not None
    count = "restart" if record.restarts == 1 else "restarts"
    ended = f"not restarted after {record.restarts} {count}" if record.restarts else "failure.maxRestarts is 0"
    holder = f"ConfigMap {name(picture.view.deployment)}-{outcome.replica.index}"
    return f"{ended}; change the spec, raise failure.maxRestarts or delete {holder} to try again"


def _no_room_to_roll(picture: Picture) -> Iterator[Finding]:
    """A rollout that may take nothing down and finds no room beside what runs."""
    if picture.current is None or picture.current.spec.rollout.max_unavailable > 0:
        return
    remedy = "set rollout.maxUnavailable to at least 1, or add nodes"
    surge, homeless = _surge_without_room(picture), _unplaced(picture)
    if surge is not None:
        yield Finding("NoRoomForSurge", f"the rollout waits for room beside the running replicas: {surge}; {remedy}")
    elif homeless and any(o.replica.record is not None for o in picture.outcomes if o not in picture.wanted):
        yield Finding(
            "NoRoomForSurge", f"a replica made for the rollout stands in for one without room; {remedy}\n{homeless}"
        )


def _surge_without_room(picture: Picture) -> str | None:
    beyond = (o for o in picture.outcomes if o not in picture.wanted and o.unplaceable is not None)
    return next((str(outcome.unplaceable) for outcome in beyond), None)


def _progress(picture: Picture) -> Iterator[Finding]:
    """What is under way, the most telling first."""
    if picture.view.failing is not None:
        yield Finding("WriteFailing", f"tried again and again: {picture.view.failing}")
    if picture.paused and (picture.unfinished or picture.outdated):
        yield Finding("Paused", "paused by an annotation with work left to do; remove it to go on")
    if picture.taken:
        yield Finding("WaitingForCleanup", "objects of an earlier deployment of this name are still being deleted")
    homeless = _unplaced(picture)
    if homeless:
        yield Finding("Unplaceable", homeless)
    if picture.outdated:
        yield Finding("RollingOut", _rolling(picture))
    yield from _delays(picture)
    yield from _recovery(picture)
    yield from _silenced(picture)
    if any(o.leaving for o in picture.outcomes) or len(picture.outcomes) > len(picture.wanted):
        yield Finding("ScalingDown", f"down to {_replicas(picture.desired)}")
    if picture.serving < picture.desired:
        yield Finding("Starting", f"{_of(picture.serving, picture.desired)} answer; the others start")
    yield from _degraded(picture)
    yield from _unreachable(picture)


def _recovery(picture: Picture) -> Iterator[Finding]:
    """Replicas that failed and do not serve again yet; what was refused is over once there are pods."""
    for outcome in picture.wanted:
        record = outcome.replica.record
        if record is None or record.last_failure is None or outcome.serving:
            continue
        if not (record.last_reason in causes.REFUSALS and outcome.replica.pods):
            cause = record.last_reason or "Restarting"
            yield Finding(cause, f"replica {outcome.replica.index}: {record.last_failure}", "Restarting")


def _silenced(picture: Picture) -> Iterator[Finding]:
    """Replicas that served, and do not answer though all their pods are there: their ranks start anew, maybe."""
    for outcome in picture.wanted:
        replica = outcome.replica
        if replica.served and replica.whole and not outcome.serving and not outcome.restarting:
            said = replica.endpoint.said if replica.endpoint is not None else ""
            detail = f": {said}" if said else ""
            yield Finding("Recovering", f"replica {replica.index} served, and does not answer now{detail}")


def _delays(picture: Picture) -> Iterator[Finding]:
    """What keeps replicas from serving, though it may pass."""
    for outcome in picture.wanted:
        if outcome.trouble is not None and outcome.trouble.passes and not outcome.serving:
            yield Finding(
                outcome.trouble.reason, f"replica {outcome.replica.index}: {outcome.trouble.message}", "Starting"
            )


def _unreachable(picture: Picture) -> Iterator[Finding]:
    """Frontends that answer the operator while the kubelets do not count one of them as ready, so the Service has none."""
    fronts = [outcome.replica.pods.get(0) for outcome in picture.wanted if outcome.serving]
    if fronts and not any(pod is not None and holds(pod, "Ready") for pod in fronts):
        said = (condition(pod, "Ready") or {} for pod in fronts if pod is not None)
        why = next((f": {one['message']}" for one in said if one.get("message")), "")
        yield Finding(
            "ServiceWithoutEndpoints",
            f"the frontend answers, but its pod is not Ready, so Service {name(picture.view.deployment)} sends requests "
            f"nowhere{why}",
        )


def _concerns(picture: Picture) -> Iterator[Finding]:
    """What replicas serve in spite of."""
    for outcome in picture.wanted:
        if outcome.trouble is not None and outcome.serving:
            yield Finding(outcome.trouble.reason, f"replica {outcome.replica.index}: {outcome.trouble.message}")


def _degraded(picture: Picture) -> Iterator[Finding]:
    """Replicas that serve without one of their slots."""
    for outcome in picture.wanted:
        record = outcome.replica.record
        if record is not None and outcome.replica.degraded:
            lack = f"; {outcome.unplaceable}" if outcome.unplaceable else ""
            yield Finding(DEGRADED, f"replica {outcome.replica.index} goes on without {record.last_failure}{lack}")


def _rolling(picture: Picture) -> str:
    done = picture.desired - picture.outdated
    text = f"{done} of {_replicas(picture.desired)} are on today's plan"
    surge = _surge_without_room(picture)
    if surge is not None:
        return f"{text}; no room for more than {picture.desired} at once, so maxUnavailable alone counts: {surge}"
    stuck = [o for o in picture.wanted if o.unplaceable is not None and o.replica.record is not None]
    if stuck:
        return f"{text}; replica {stuck[0].replica.index} stays as it is: {stuck[0].unplaceable}"
    return text


def _ready(picture: Picture, blocked: Finding | None, progress: Finding | None) -> tuple[Status, Finding]:
    found = blocked or progress
    if found is not None:
        return ("True" if found.reason == DEGRADED else "False"), found
    if picture.desired == 0:
        return "True", _SCALED_TO_ZERO
    concern = next(_concerns(picture), None)
    if concern is not None:
        return "True", concern
    return "True", Finding("Serving", _all(picture.desired, "answers", "answer"))


def _reconciling(blocked: Finding | None, progress: Finding | None) -> tuple[Status, Finding]:
    if blocked is not None:
        return "False", Finding("Stalled", "a person must act; see Stalled")
    if progress is not None:
        return "True", replace(progress, reason=progress.doing or progress.reason)
    return "False", Finding("Settled", "all is as wanted")


def _stalled(blocked: Finding | None) -> tuple[Status, Finding]:
    if blocked is not None:
        return "True", blocked
    return "False", Finding("NotStalled", "nothing waits for a person")


def _valid(picture: Picture) -> tuple[Status, Finding]:
    if picture.refusal is not None:
        unknown = reason(picture.refusal) in {"ConfigMissing", "ExpertLoadsMissing"}
        found = Finding(reason(picture.refusal), verdict(picture.refusal))
        return ("Unknown" if unknown else "False"), found
    assert picture.current is not None
    plan = picture.current.plan
    degrees, warnings = plan.degrees, "".join(f"\nwarning: {warning}" for warning in plan.warnings)
    shape = f"ep {degrees.ep} · tp {degrees.tp} · pp {degrees.pp}: {degrees.world} GPUs in {plan.slots} pods a replica"
    return "True", Finding("PlanHolds", shape + warnings)


def _placed(picture: Picture) -> tuple[Status, Finding]:
    homeless = _unplaced(picture)
    if picture.gangless is not None:
        return "False", Finding(reason(picture.gangless), verdict(picture.gangless))
    if homeless:
        return "False", Finding("Unplaceable", homeless)
    if picture.desired == 0:
        return _NOTHING_VALID if picture.refusal else ("True", Finding("NothingToPlace", "no replica is asked for"))
    homes = sum(o.replica.record is not None and bool(o.replica.record.nodes) for o in picture.wanted)
    if homes == picture.desired:
        return "True", Finding("NodesFound", _all(picture.desired, "has its nodes", "have their nodes"))
    return "Unknown", Finding("Pending", f"{_of(homes, picture.desired)} have their nodes")


def _unplaced(picture: Picture) -> str:
    """Replicas without nodes, those with the same reasons together."""
    without: defaultdict[str, list[int]] = defaultdict(list)
    for outcome in picture.wanted:
        record = outcome.replica.record
        if outcome.unplaceable is not None and (record is None or not record.nodes):
            without[str(outcome.unplaceable)].append(outcome.replica.index)
    return "\n".join(
        f"replica{'s' if len(indices) > 1 else ''} {_ranges(indices)}: {why}" for why, indices in without.items()
    )


def _available(picture: Picture) -> tuple[Status, Finding]:
    unreachable = next(_unreachable(picture), None)
    if unreachable is not None:
        return "False", unreachable
    if picture.serving:
        return "True", Finding("EndpointAnswers", f"{_of(picture.serving, picture.desired)} answer")
    if picture.desired == 0:
        return ("False", _NOTHING_VALID[1]) if picture.refusal else ("False", _SCALED_TO_ZERO)
    said = (o.replica.endpoint.said for o in picture.wanted if o.replica.endpoint is not None and o.replica.whole)
    why = next((text for text in said if text), "")
    return "False", Finding("EndpointSilent", "no replica answers" + (f": {why}" if why else ""))


def _leftover(picture: Picture, obj: Mapping[str, Any]) -> bool:
    """Whether an object belongs to an earlier deployment of the same name, and so is about to be deleted."""
    return controller(obj) is not None and labels(obj).get(DEPLOYMENT_LABEL) == name(picture.view.deployment)


def _all(count: int, one: str, many: str) -> str:
    return f"{_replicas(count)} {one if count == 1 else many}"


def _of(some: int, count: int) -> str:
    return f"{some} of {_replicas(count)}"


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"


def _ranges(indices: list[int]) -> str:
    """Indices for people: '0, 2-5'."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
