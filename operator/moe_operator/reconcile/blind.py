"""The status of a deployment while the operator may not see what it must: it decides nothing, and says what it lacks."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from moe_operator.reconcile.causes import refusal
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import condition, format_time
from moe_operator.status import Status

_ORDER = ("Ready", "Reconciling", "Stalled", "ParallelismValid", "Placed", "Available")


def blinded(deployment: Object, said: str, now: datetime) -> Mapping[str, Any] | None:
    """The status as it was, with what the API server said to a list; None where it says so already."""
    before = deployment.get("status") or {}
    generation = int(deployment["metadata"].get("generation") or 0)
    found = refusal(said)
    told = {
        "Ready": ("Unknown", found.reason, found.message),
        "Reconciling": ("False", "Stalled", "a person must act; see Stalled"),
        "Stalled": ("True", found.reason, found.message),
    }
    kept = {str(one["type"]): one for one in before.get("conditions") or ()}
    new = {
        kind: {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": _since(deployment, kind, status) or format_time(now),
        }
        for kind, (status, reason, message) in told.items()
    }
    conditions = [(kept | new)[kind] for kind in _ORDER if kind in kept | new]
    blank = Status(observed_generation=generation).model_dump(mode="json", by_alias=True, exclude_none=True)
    status = {**blank, **before, "observedGeneration": generation, "conditions": conditions}
    return None if status == before else status


def _since(deployment: Object, kind: str, status: str) -> str | None:
    old = condition(deployment, kind) or {}
    return str(old["lastTransitionTime"]) if old.get("status") == status else None
