"""Why a deployment is not ready: its conditions in the order in which to act on them, then its worst pod. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from moe_operator.kubectl.holders import speaking_container
from moe_operator.kubectl.status import wrapped
from moe_operator.reconcile import causes, delays
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import (
    REPLICA_LABEL,
    SLOT_LABEL,
    condition,
    holds,
    label_number,
    name,
    node_of,
    phase,
    terminating,
)

PAGE = "docs/troubleshooting.md"

_ORDER = (
    ("Stalled", "False"),
    ("ParallelismValid", "True"),
    ("Placed", "True"),
    ("Ready", "True"),
    ("Reconciling", "False"),
    ("Available", "True"),
)
"""Conditions as a person acts on them, each with the status in which there is nothing to do."""
_CONTENT = frozenset({"Serving", "ScaledToZero"})
"""Reasons of Ready=True beside which there is nothing to tell."""
_CONSEQUENCES = frozenset({"NoPlan", "EndpointSilent"})
"""Reasons that follow from any cause that is known."""


@dataclass(frozen=True, slots=True)
class Worst:
    """The pod to look at first."""

    pod: Object
    container: str
    reason: str
    message: str


def is_ready(deployment: Object) -> bool:
    """Whether all that is asked for serves."""
    return holds(deployment, "Ready")


def why_lines(deployment: Object, worst: Worst | None, last_line: str) -> list[str]:
    """The reasons, numbered, each with the section to read; then the worst pod and the last that it said."""
    if not deployment.get("status"):
        return [f"{name(deployment)}: no status yet; is the operator running?"]
    ready = "is ready" if is_ready(deployment) else "is not ready"
    reasons = list(_reasons(deployment))
    lines = [f"{name(deployment)} {ready}" + (", yet" if reasons and is_ready(deployment) else "")]
    for number, (kind, status, reason, message) in enumerate(reasons, 1):
        lines += [f"{number}. {kind} {status}, {reason}", *wrapped(message, "   "), f"   read {section(reason)}"]
    told = "\n".join(message for *_, message in reasons)
    return lines + (_pod_lines(worst, last_line, told) if worst is not None else [])


def section(reason: str) -> str:
    """Where a reason is explained."""
    return f"{PAGE}#{reason.lower()}"


def worst_pod(pods: Sequence[Object]) -> Worst | None:
    """The pod that a failure began with; else one that cannot start, else the first that is not ready.

    Pods that are being deleted are the operator's answer to a failure, which the status names.
    """
    by_replica: dict[int, dict[int, Object]] = {}
    for pod in pods:
        replica, slot = label_number(pod, REPLICA_LABEL), label_number(pod, SLOT_LABEL)
        if replica is not None and slot is not None and not terminating(pod):
            by_replica.setdefault(replica, {})[slot] = pod
    groups = [by_replica[replica] for replica in sorted(by_replica)]
    finders = (_failed, _waiting, _not_ready)
    return next((found for finder in finders for group in groups if (found := finder(group))), None)


def _failed(group: dict[int, Object]) -> Worst | None:
    found = causes.failure(group, {}, (), datetime.now(UTC))
    return _worst(group[found.slot], found.reason, found.message) if found and found.slot is not None else None


def _waiting(group: dict[int, Object]) -> Worst | None:
    for slot, pod in sorted(group.items()):
        found = delays.waiting(slot, pod)
        if found is not None:
            return _worst(pod, found.reason, found.message)
    return None


def _not_ready(group: dict[int, Object]) -> Worst | None:
    for slot, pod in sorted(group.items()):
        if not holds(pod, "Ready"):
            ready = condition(pod, "Ready") or condition(pod, "PodScheduled") or {}
            said = str(ready.get("message") or "").strip()
            where = f" on {node_of(pod)}" if node_of(pod) else ""
            return _worst(
                pod, "Starting", f"slot {slot}{where}: {phase(pod)}, not ready" + (f": {said}" if said else "")
            )
    return None


def _worst(pod: Object, reason: str, message: str) -> Worst:
    return Worst(pod, speaking_container(pod), reason, message)


def _reasons(deployment: Object) -> Iterator[tuple[str, str, str, str]]:
    told: set[str] = set()
    known = False
    for kind, fine in _ORDER:
        found = condition(deployment, kind)
        if found is None or _is_fine(found, fine) or found["message"] in told:
            continue
        if known and found["reason"] in _CONSEQUENCES:
            continue
        told.add(found["message"])
        known = known or found["reason"] != "Starting"
        yield kind, found["status"], found["reason"], found["message"]


def _is_fine(found: Mapping[str, str], fine: str) -> bool:
    return found["status"] == fine and (found["type"] != "Ready" or found["reason"] in _CONTENT)


def _pod_lines(worst: Worst, last_line: str, told: str) -> list[str]:
    """The worst pod; what a reason above has said of it is not said again."""
    lines = [f"worst pod: {name(worst.pod)}, container {worst.container}"]
    news = worst.message not in told
    if news:
        lines += wrapped(worst.message, "   ")
    if last_line and last_line not in told:
        lines += wrapped(f"its last line: {last_line}", "   ")
    return [*lines, f"   read {section(worst.reason)}"] if news else lines
