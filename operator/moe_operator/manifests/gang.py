"""Gang schedulers: which one binds a replica's pods together, and what its pods carry for it.

Facts: Kueue, https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods/ and
https://kueue.sigs.k8s.io/docs/reference/labels-and-annotations/; Volcano, https://volcano.sh/en/docs/podgroup/; the
scheduler's own, https://kubernetes.io/docs/concepts/scheduling-eviction/gang-scheduling/.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from moe_operator.manifests.naming import LONGEST, child_name
from moe_plan.errors import Violation
from moe_plan.plan import Plan
from moe_plan.spec import Scheduling

Gang = Literal["none", "native", "volcano", "kueue"]

API: Mapping[Gang, str] = {
    "kueue": "kueue.x-k8s.io",
    "native": "scheduling.k8s.io/v1alpha2",
    "volcano": "scheduling.volcano.sh",
}
"""What the cluster serves where a gang scheduler is there. The native one's group exists without it, so its version
counts."""
VOLCANO_SCHEDULER = "volcano"
DEFAULT_SCHEDULER = "default-scheduler"


def chosen_gang(scheduling: Scheduling, served: Collection[str]) -> Gang:
    """The gang scheduler of a replica: the one asked for, or the first that suits and is there.

    `served` has the groups and the group/versions of the API server.
    """
    asked = scheduling.gang
    candidates = _suitable(scheduling) if asked == "auto" else () if asked == "none" else (asked,)
    return next((gang for gang in candidates if API[gang] in served), "none")


def gang_violations(scheduling: Scheduling, served: Collection[str]) -> tuple[Violation, ...]:
    """What the manifest asks of a gang scheduler that the cluster does not have."""
    asked, field = scheduling.gang, "spec.scheduling.gang"
    if asked == "kueue" and scheduling.queue_name is None:
        return (Violation(field, "QueueNeeded", "kueue admits replicas from a queue", "set spec.scheduling.queueName"),)
    queue = scheduling.queue_name
    if queue is not None and chosen_gang(scheduling, served) == "kueue" and len(queue) > LONGEST:
        message = f"Kueue finds the queue by a label, which has at most {LONGEST} characters"
        return (Violation("spec.scheduling.queueName", "QueueNameTooLong", message),)
    if asked != "auto" and asked in API and API[asked] not in served:
        message = f"{asked} is asked for, but the cluster does not serve {API[asked]}"
        return (Violation(field, "GangNotServed", message, "install it, or set gang to auto"),)
    if queue is not None and chosen_gang(scheduling, served) not in ("kueue", "volcano"):
        message = f"nothing in the cluster serves queue {queue}"
        remedy = "install Kueue or Volcano, or remove queueName"
        return (Violation("spec.scheduling.queueName", "QueueNotServed", message, remedy),)
    return ()


def group_name(gang: Gang, plan: Plan, name: str, index: int, attempt: int = 0) -> str:
    """Name of the group of a replica's pods.

    Of its PodGroup, whose policy is immutable, there is one for each plan. Kueue's groups come without an object and
    end with their pods, so each attempt is a new one.
    """
    return child_name(name, index, f"a{attempt}") if gang == "kueue" else child_name(name, index, plan.hash[:8])


def pod_extras(gang: Gang, scheduling: Scheduling, plan: Plan, group: str) -> dict[str, Any]:
    """Labels, annotations, scheduling gates, scheduling group and scheduler that a gang scheduler needs on a pod."""
    extras: dict[str, Any] = {"labels": {}, "annotations": {}, "gates": (), "group": None}
    extras["scheduler"] = scheduling.scheduler_name
    match gang:
        case "kueue":
            extras["labels"] = {
                "kueue.x-k8s.io/queue-name": scheduling.queue_name,
                "kueue.x-k8s.io/pod-group-name": group,
            }
            # One role for all: Kueue tells roles apart by affinity, which differs with each slot, and takes at most 8.
            # Not retriable: a replica is restarted whole, as a new group.
            extras["annotations"] = {
                "kueue.x-k8s.io/pod-group-total-count": str(plan.slots),
                "kueue.x-k8s.io/role-hash": "slot",
                "kueue.x-k8s.io/retriable-in-group": "false",
            }
            extras["gates"] = ("kueue.x-k8s.io/admission",)
        case "volcano":
            extras["annotations"] = {"scheduling.k8s.io/group-name": group}
            extras["scheduler"] = scheduling.scheduler_name or VOLCANO_SCHEDULER
        case "native":
            extras["group"] = group
    return extras


def _suitable(scheduling: Scheduling) -> tuple[Gang, ...]:
    """Gang schedulers that fit the rest of the section, the first the best."""
    scheduler = scheduling.scheduler_name
    volcano: tuple[Gang, ...] = ("volcano",) if scheduler in (None, VOLCANO_SCHEDULER) else ()
    if scheduling.queue_name is not None:
        return ("kueue", *volcano)
    native: tuple[Gang, ...] = ("native",) if scheduler in (None, DEFAULT_SCHEDULER) else ()
    return (*native, *volcano)
