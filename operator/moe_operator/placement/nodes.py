"""Nodes as placement sees them: where they stand, what they offer, and what the pods on them already take.

Amounts are integers by resource name: thousandths of a core for cpu, bytes for memory, pods for pods, whole units for
all else. Requests are counted as the scheduler counts them:
https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers,
https://kubernetes.io/docs/concepts/scheduling-eviction/pod-overhead/.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from moe_plan.units import parse_quantity

HOSTNAME = "kubernetes.io/hostname"
_SCALES = {"cpu": 1000}
_FINISHED = frozenset({"Succeeded", "Failed"})

Amounts = Mapping[str, int]


class Taint(NamedTuple):
    """A Kubernetes taint."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    allocatable: Amounts = field(default_factory=dict)
    used: Amounts = field(default_factory=dict)
    """Requests of all pods on the node that are not finished, whoever made them."""
    ready: bool = True
    unschedulable: bool = False
    """Whether the node is cordoned."""
    taints: tuple[Taint, ...] = ()

    def free(self, resource: str) -> int:
        """What is left of a resource; negative where the node is overcommitted."""
        return self.allocatable.get(resource, 0) - self.used.get(resource, 0)


def nodes_from_objects(nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """Nodes out of Node and Pod objects, both as the API server gives them.

    A pod counts on the node it is bound to or, while it waits for the scheduler, on the one node that it can go to or
    is nominated for. Leave out the pods that a placement replaces. Raises ValueError for a quantity that is none.
    """
    objects = list(nodes)
    by_hostname = {_labels(node).get(HOSTNAME, _name(node)): _name(node) for node in objects}
    used: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for pod in pods:
        name = _node_of(pod, by_hostname)
        if name is not None:
            used[name].update(pod_requests(pod))
    return tuple(_node(node, used.get(_name(node), {})) for node in objects)


def with_slots(nodes: Sequence[Node], placed: Iterable[str], requests: Amounts) -> tuple[Node, ...]:
    """The nodes after one slot more on each name in `placed`, for replicas that are placed one after another."""
    slots = Counter(placed)
    return tuple(
        replace(node, used=_sum([node.used, *[requests] * slots[node.name]])) if node.name in slots else node
        for node in nodes
    )


def pod_requests(pod: Mapping[str, Any]) -> dict[str, int]:
    """What a pod takes of a node: the greater of what runs together and what its start needs, and its overhead."""
    spec = pod.get("spec") or {}
    sidecars: dict[str, int] = {}
    start: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars = _sum([sidecars, _requests(container)])
            start = _most(start, sidecars)
        else:
            start = _most(start, _sum([sidecars, _requests(container)]))
    running = _sum([sidecars, *(_requests(container) for container in spec.get("containers") or ())])
    own = _most(start, running) | _requests(spec)  # a pod-level request overrides its containers'
    return _sum([own, _amounts(spec.get("overhead"), math.ceil), {"pods": 1}])


def _requests(holder: Mapping[str, Any]) -> dict[str, int]:
    """Requests of a container or pod; a limit stands in for a missing request, as the API server has it."""
    resources = holder.get("resources") or {}
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})}, math.ceil)


def _node(node: Mapping[str, Any], used: Amounts) -> Node:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    return Node(
        name=_name(node),
        labels=_labels(node),
        allocatable=_amounts(status.get("allocatable"), math.floor),
        used=used,
        ready=any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ()),
        unschedulable=bool(spec.get("unschedulable")),
        taints=tuple(
            Taint(taint["key"], taint.get("value") or "", taint["effect"]) for taint in spec.get("taints") or ()
        ),
    )


def _name(node: Mapping[str, Any]) -> str:
    return str(node["metadata"]["name"])


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _node_of(pod: Mapping[str, Any], by_hostname: Mapping[str, str]) -> str | None:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if status.get("phase") in _FINISHED:
        return None
    bound: str | None = spec.get("nodeName") or status.get("nominatedNodeName")
    return bound or _only_node(spec, by_hostname)


def _only_node(spec: Mapping[str, Any], by_hostname: Mapping[str, str]) -> str | None:
    """The node that a pod's selector or required affinity leaves, where that is a single one."""
    pinned = (spec.get("nodeSelector") or {}).get(HOSTNAME)
    if pinned is not None:
        return by_hostname.get(pinned)
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [set(_term_nodes(term, by_hostname)) for term in required.get("nodeSelectorTerms") or ()]
    names = set().union(*terms) if terms and all(terms) else set()
    return names.pop() if len(names) == 1 else None


def _term_nodes(term: Mapping[str, Any], by_hostname: Mapping[str, str]) -> Iterator[str]:
    for expression in term.get("matchFields") or ():
        if expression.get("key") == "metadata.name" and expression.get("operator") == "In":
            yield from expression.get("values") or ()
    for expression in term.get("matchExpressions") or ():
        if expression.get("key") == HOSTNAME and expression.get("operator") == "In":
            yield from (by_hostname.get(value, value) for value in expression.get("values") or ())


def _amounts(quantities: Mapping[str, Any] | None, rounding: Any) -> dict[str, int]:
    return {name: _amount(str(text), _SCALES.get(name, 1), rounding) for name, text in (quantities or {}).items()}


@lru_cache(maxsize=65536)
def _amount(text: str, scale: int, rounding: Any) -> int:
    return int(rounding(round(parse_quantity(text) * scale, 3)))


def _sum(parts: Iterable[Amounts]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0) + amount
    return total


def _most(first: Amounts, second: Amounts) -> dict[str, int]:
    return {name: max(first.get(name, 0), second.get(name, 0)) for name in {**first, **second}}
