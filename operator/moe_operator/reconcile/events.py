"""Events: what has become different between two statuses, so that each is told once and none at a resync."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from moe_operator.reconcile.model import Event

LONGEST = 1024
"""Characters of an event's message: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/."""

_WARNINGS = {"ParallelismValid": "False", "Placed": "False", "Stalled": "True"}
"""Conditions whose turn to this status is a warning."""
_NEWS = {"ParallelismValid": "True", "Placed": "True", "Ready": "True"}
"""Conditions whose turn to this status is good news."""
_CONTENT = frozenset({"Serving", "ScaledToZero"})
"""Reasons of Ready=True beside which there is nothing to tell."""


def events_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Event]:
    """Events that tell a person what has happened since the status before."""
    old = {c["type"]: c for c in before.get("conditions") or ()}
    yield from _of_conditions(old, {c["type"]: c for c in after["conditions"]})
    yield from _of_replicas(before, after)


def _of_conditions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Event]:
    told: set[str] = set()
    for kind, now in new.items():
        was = old.get(kind, {})
        turned = was.get("status") != now["status"]
        if now["status"] == _WARNINGS.get(kind) and (turned or was.get("reason") != now["reason"]):
            if now["message"] not in told:  # an invalid spec is Stalled too, and told once
                yield _event("Warning", now["reason"], now["message"])
            told.add(now["message"])
        elif kind == "Ready" and was.get("reason") != now["reason"] and _troubles(new):
            yield _event("Warning", now["reason"], now["message"])
        elif now["status"] == _NEWS.get(kind) and turned:
            yield _event("Normal", now["reason"], now["message"])
        elif kind == "Reconciling" and now["reason"] == "RollingOut" != was.get("reason"):
            yield _event("Normal", "RollingOut", now["message"])


def _troubles(conditions: Mapping[str, Any]) -> bool:
    """Whether Ready has a reason that is told nowhere else: a delay that may pass, or what it serves in spite of."""
    ready, doing = conditions["Ready"], conditions["Reconciling"]["reason"]
    if ready["status"] == "True":
        return ready["reason"] not in _CONTENT and doing == "Settled"
    return doing in ("Starting", "Recovering") and ready["reason"] != "Starting"


def _of_replicas(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Event]:
    old = {r["index"]: r for r in before.get("replicaStatuses") or ()}
    for replica in after.get("replicaStatuses") or ():
        was = old.get(replica["index"], {})
        failure, restarts = replica.get("lastFailure"), replica.get("restarts")
        fresh = (was.get("lastFailure"), was.get("restarts")) != (failure, restarts)
        if failure is not None and fresh and replica["phase"] != "Failed":
            cause = replica.get("lastReason") or "Restarting"
            yield _event("Warning", cause, f"replica {replica['index']}: {failure}; restart {restarts}")
    gone = old.keys() - {r["index"] for r in after.get("replicaStatuses") or ()}
    for index in sorted(gone):
        yield _event("Normal", "ReplicaRemoved", f"replica {index} is gone")


def _event(kind: Literal["Normal", "Warning"], reason: str, message: str) -> Event:
    return Event(kind, reason, message if len(message) <= LONGEST else f"{message[: LONGEST - 1]}…")
