"""Replicas as observed: the record, the pods of its attempt, and what is left of earlier ones."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from moe_operator.manifests.naming import child_name
from moe_operator.reconcile import objects
from moe_operator.reconcile.model import Endpoint, Object, View
from moe_operator.reconcile.objects import (
    ATTEMPT_LABEL,
    PLAN_LABEL,
    REPLICA_LABEL,
    SLOT_LABEL,
    label_number,
    labels,
    name,
    terminating,
)
from moe_operator.reconcile.record import KEY, Record, read_record
from moe_operator.reconcile.revisions import Revision

SHORT = 8
"""Characters of a plan's hash in names and labels."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as observed."""

    index: int
    record: Record | None = None
    revision: Revision | None = None
    """The one that the record names, where its plan is still known."""
    pods: Mapping[int, Object] = field(default_factory=dict)
    """Pods of the record's attempt by slot; terminating ones included."""
    stale: tuple[Object, ...] = ()
    """Pods of earlier attempts and plans, or of no record."""
    others: tuple[Object, ...] = ()
    """Its record's ConfigMap, Service, PodDisruptionBudget and NetworkPolicy."""
    endpoint: Endpoint | None = None

    @property
    def whole(self) -> bool:
        """Whether each slot has its pod."""
        return self.record is not None and 0 < len(self.record.nodes) == len(self.pods)

    @property
    def serving(self) -> bool:
        """Whether the endpoint answers and nobody is taking a pod away."""
        answered = self.endpoint is not None and self.endpoint.answered
        enough = self.whole or (self.degraded and 0 in self.pods)
        return answered and enough and not any(map(terminating, self.pods.values()))

    @property
    def degraded(self) -> bool:
        """Whether slots that are replaced alone have no pod."""
        renewed = dict(self.record.renewed) if self.record is not None else {}
        missing = set(range(len(self.record.nodes))) - self.pods.keys() if self.record is not None else set()
        return bool(missing) and missing <= renewed.keys()

    @property
    def served(self) -> bool:
        """Whether the endpoint of this attempt has ever answered."""
        return self.record is not None and self.record.ready_since is not None and self.record.failed is None

    @property
    def every_pod(self) -> tuple[Object, ...]:
        """Pods of this attempt, then those of earlier ones."""
        return (*self.pods.values(), *self.stale)


def observe(view: View, mine: Iterable[Object], revisions: Mapping[str, Revision]) -> dict[int, Replica]:
    """Replicas by index, of all objects that are the deployment's."""
    pods: defaultdict[int, list[Object]] = defaultdict(list)
    others: defaultdict[int, list[Object]] = defaultdict(list)
    for child in mine:
        index = label_number(child, REPLICA_LABEL)
        if index is not None:
            (pods if child.get("kind", "Pod") == "Pod" else others)[index].append(child)
    return {
        index: _replica(view, index, pods[index], tuple(others[index]), revisions)
        for index in sorted(pods.keys() | others.keys())
    }


def _replica(
    view: View, index: int, pods: list[Object], others: tuple[Object, ...], revisions: Mapping[str, Revision]
) -> Replica:
    base = objects.name(view.deployment)
    slots = {revision.hash: revision.plan.slots for revision in revisions.values()}
    holder = next((o for o in others if o["kind"] == "ConfigMap" and name(o) == child_name(base, index)), None)
    record = read_record(holder, slots) if holder is not None and KEY in (holder.get("data") or {}) else None
    replica = Replica(index, None, None, {}, tuple(sorted(pods, key=name)), others, view.endpoints.get(index))
    return with_record(base, replica, record, revisions) if record is not None else replica


def with_record(base: str, replica: Replica, record: Record, revisions: Mapping[str, Revision]) -> Replica:
    """The replica under a record: its pods dealt anew into those of the record's attempt and earlier ones."""
    current, stale = {}, []
    for pod in replica.every_pod:
        slot = label_number(pod, SLOT_LABEL)
        if slot is not None and slot < len(record.nodes) and _is_current(base, replica.index, slot, pod, record):
            current[slot] = pod
        else:
            stale.append(pod)
    return replace(
        replica,
        record=record,
        revision=revisions.get(record.plan),
        pods=dict(sorted(current.items())),
        stale=tuple(stale),
    )


def restored(base: str, replica: Replica, revisions: Mapping[str, Revision]) -> Record | None:
    """A lost record out of the pods, if these are one whole group that nobody takes away."""
    pods = {label_number(pod, SLOT_LABEL): pod for pod in replica.stale}
    plans = {labels(pod).get(PLAN_LABEL, "") for pod in replica.stale}
    known = [revision for revision in revisions.values() if {revision.hash[:SHORT]} == plans]
    if len(known) != 1 or len(replica.stale) != known[0].plan.slots or any(map(terminating, replica.stale)):
        return None
    group = [pods.get(slot) for slot in range(known[0].plan.slots)]
    found = [(label_number(pod, ATTEMPT_LABEL), objects.node_of(pod)) for pod in group if pod is not None]
    attempts = [attempt for attempt, _ in found if attempt]
    nodes = tuple(node for _, node in found if node is not None)
    if not len(attempts) == len(nodes) == len(group):
        return None
    first = min(attempts)
    renewed = tuple((slot, attempt) for slot, attempt in enumerate(attempts) if attempt != first)
    record = Record(known[0].hash, first, nodes, renewed=renewed)
    return record if len(with_record(base, replica, record, revisions).pods) == len(group) else None


def _is_current(base: str, index: int, slot: int, pod: Object, record: Record) -> bool:
    return (
        label_number(pod, ATTEMPT_LABEL) == record.attempt_of(slot)
        and labels(pod).get(PLAN_LABEL) == record.plan[:SHORT]
        and name(pod) == child_name(base, index, slot)
    )
