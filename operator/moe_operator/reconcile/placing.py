"""Where replicas go: placement with all that is taken on the nodes, this deployment's own decisions included."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from moe_operator.placement import (
    Node,
    Placement,
    Unplaceable,
    nodes_from_objects,
    place,
    pod_requests,
    with_slots,
)
from moe_operator.placement.eligible import barred, free, matches
from moe_operator.reconcile.model import View
from moe_operator.reconcile.objects import node_of, uid
from moe_operator.reconcile.replicas import Replica
from moe_operator.reconcile.revisions import Requests, Revision, ordered, slot_requests


@dataclass
class Ground:
    """The cluster's nodes with what foreign pods and this deployment's replicas take of them.

    Replicas are placed one after another; what one is given is taken for the next.
    """

    view: View
    replicas: Mapping[int, Replica]
    _taken: dict[int, list[tuple[str, Requests]]] = field(default_factory=dict)
    _refused: dict[Revision, Unplaceable] = field(default_factory=dict)
    """Revisions for which no room was found; later replicas of the same decision find no more."""

    def __post_init__(self) -> None:
        for index, replica in self.replicas.items():
            self._taken[index] = list(self._of(replica))

    def place(
        self, index: int, revision: Revision, stay: Sequence[str] = (), fixed: Iterable[int] = ()
    ) -> Placement | Unplaceable:
        """Place a replica.

        Slots whose node in `stay` can still hold them stay there, if the others can be placed so; `fixed` slots stay
        there in any case, since they run.
        """
        if revision in self._refused and not self._taken.get(index):
            return self._refused[revision]
        nodes = self._beside(index)
        held = {slot: stay[slot] for slot in fixed}
        kept = self._fitting(nodes, revision, stay) | held
        found = self._place(index, revision, nodes, kept)
        if isinstance(found, Unplaceable) and kept != held:
            found = self._place(index, revision, nodes, held)
        if isinstance(found, Unplaceable) and not self._taken.get(index):
            self._refused[revision] = found
        return found

    def holds(self, index: int, revision: Revision, placed: Sequence[str]) -> bool:
        """Whether the nodes that a replica was given can all still take it."""
        return len(self._fitting(self._beside(index), revision, placed)) == revision.plan.slots

    def take(self, replica: Replica) -> None:
        """Take note of what a replica holds from now on: its pods until they are gone, and the slots of its record."""
        self._taken[replica.index] = list(self._of(replica))

    def _place(
        self, index: int, revision: Revision, nodes: Sequence[Node], kept: Mapping[int, str]
    ) -> Placement | Unplaceable:
        siblings = [node for other, taken in self._taken.items() if other != index for node, _ in taken]
        return place(
            revision.plan,
            revision.spec.topology,
            revision.spec.scheduling,
            nodes,
            requests=dict(slot_requests(revision)),
            siblings=siblings,
            keep=kept,
        )

    @cached_property
    def _foreign(self) -> tuple[Node, ...]:
        """Nodes with the pods that are not this deployment's."""
        own = {uid(pod) for replica in self.replicas.values() for pod in replica.every_pod}
        return nodes_from_objects(self.view.nodes, (pod for pod in self.view.pods if uid(pod) not in own))

    def _beside(self, index: int) -> tuple[Node, ...]:
        """Nodes with all that is taken by others than one replica."""
        by_requests = defaultdict(list)
        for other, taken in self._taken.items():
            if other != index:
                for node, requests in taken:
                    by_requests[requests].append(node)
        nodes = self._foreign
        for requests, placed in by_requests.items():
            nodes = with_slots(nodes, placed, dict(requests))
        return nodes

    def _fitting(self, nodes: Sequence[Node], revision: Revision, placed: Sequence[str]) -> dict[int, str]:
        """The slots that their nodes can take, of those placed."""
        if not placed:
            return {}
        room = Counter[str]()
        wanted, scheduling, requests = set(placed), revision.spec.scheduling, dict(slot_requests(revision))
        for node in nodes:
            if node.name in wanted and matches(node, scheduling.node_selector) and not barred(node, scheduling):
                room[node.name] = free(node, requests)
        fitting = {}
        for slot, name in enumerate(placed):
            if room[name] > 0:
                room[name] -= 1
                fitting[slot] = name
        return fitting

    def _of(self, replica: Replica) -> Iterable[tuple[str, Requests]]:
        """What a replica takes: its pods, and the slots of its record that have none yet."""
        yield from self._of_pods(replica)
        if replica.record is not None and replica.revision is not None and replica.record.failed is None:
            requests = slot_requests(replica.revision)
            for slot, node in enumerate(replica.record.nodes):
                if slot not in replica.pods:
                    yield node, requests

    @staticmethod
    def _of_pods(replica: Replica) -> Iterable[tuple[str, Requests]]:
        for pod in replica.every_pod:
            node = node_of(pod)
            if node is not None and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                yield node, ordered(pod_requests(pod))
