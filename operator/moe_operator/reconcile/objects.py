"""Reading Kubernetes objects: names, owners, times, and what a pod says of itself."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from moe_operator.reconcile.model import Object

GROUP = "moe-operator.dev"
DEPLOYMENT_LABEL = f"{GROUP}/deployment"
REPLICA_LABEL = f"{GROUP}/replica"
SLOT_LABEL = f"{GROUP}/slot"
PLAN_LABEL = f"{GROUP}/plan"
ATTEMPT_LABEL = f"{GROUP}/attempt"
PAUSED = f"{GROUP}/paused"
RENDERED = f"{GROUP}/rendered"
PLAN_KEY = "plan.json"
"""Key of a plan's ConfigMap under which the plan is."""
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "moe-operator"

Identity = tuple[str, str]
"""Kind and name, within the deployment's namespace."""


def identity(obj: Object) -> Identity:
    """Kind and name of an object."""
    return str(obj.get("kind") or "Pod"), name(obj)


def name(obj: Object) -> str:
    """Name of an object."""
    return str(obj["metadata"]["name"])


def namespace(obj: Object) -> str:
    """Namespace of an object."""
    return str(obj["metadata"].get("namespace") or "default")


def uid(obj: Object) -> str:
    """Identity of an object over its life."""
    return str(obj["metadata"].get("uid") or "")


def labels(obj: Object) -> Mapping[str, str]:
    """Labels of an object."""
    return obj["metadata"].get("labels") or {}


def annotations(obj: Object) -> Mapping[str, str]:
    """Annotations of an object."""
    return obj["metadata"].get("annotations") or {}


def terminating(obj: Object) -> bool:
    """Whether the object is being deleted."""
    return obj["metadata"].get("deletionTimestamp") is not None


def controller(obj: Object) -> str | None:
    """The uid of the object's controller."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("uid") or "")
    return None


def owned(obj: Object, deployment: Object) -> bool:
    """Whether an object is the deployment's: by its controller, or by our labels while it has no controller."""
    owner = controller(obj)
    if owner is not None:
        return owner == uid(deployment)
    return labels(obj).get(MANAGED_BY) == MANAGER and labels(obj).get(DEPLOYMENT_LABEL) == name(deployment)


def label_number(obj: Object, label: str) -> int | None:
    """A label that holds a count; None where it is absent or not a count."""
    text = labels(obj).get(label, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def condition(obj: Object, kind: str) -> Mapping[str, Any] | None:
    """A condition of an object's status."""
    for found in (obj.get("status") or {}).get("conditions") or ():
        if found.get("type") == kind:
            return dict(found)
    return None


def holds(obj: Object, kind: str) -> bool:
    """Whether a condition is True."""
    found = condition(obj, kind)
    return found is not None and found.get("status") == "True"


def phase(pod: Object) -> str:
    """Phase of a pod; Pending until the API server has one."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def finished(pod: Object) -> bool:
    """Whether a pod has ended and holds nothing any more."""
    return phase(pod) in ("Succeeded", "Failed")


def node_of(pod: Object) -> str | None:
    """The node a pod is bound to or, before it is bound, the one that its affinity names."""
    spec = pod.get("spec") or {}
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    values = {
        str(value)
        for term in required.get("nodeSelectorTerms") or ()
        for field in term.get("matchFields") or ()
        if field.get("key") == "metadata.name"
        for value in field.get("values") or ()
    }
    return values.pop() if len(values) == 1 else None


def container_states(pod: Object) -> Iterable[Mapping[str, Any]]:
    """Statuses of the containers, init containers first and marked as `init`."""
    status = pod.get("status") or {}
    yield from ({**state, "init": True} for state in status.get("initContainerStatuses") or ())
    yield from status.get("containerStatuses") or ()


def parse_time(text: Any) -> datetime | None:
    """A Kubernetes timestamp; None for anything else."""
    return _parsed(text) if isinstance(text, str) else None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> datetime | None:
    """Remembered, since pods that start together have the same times."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def format_time(time: datetime) -> str:
    """A time as Kubernetes writes it: UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
