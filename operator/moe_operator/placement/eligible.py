"""Which nodes may take a slot, how many, and why the others may not.

Selectors, taints and cordons are read as the scheduler reads them:
https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/.
"""

from collections.abc import Mapping

from moe_operator.placement.nodes import Amounts, Node, Taint
from moe_plan.spec import Scheduling, Toleration

_CORDONED = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
MOST = 2**31
"""Slots that a node is taken to hold where a slot asks for nothing."""
_HARD = frozenset({"NoSchedule", "NoExecute"})


def counts(node: Node, name: str) -> bool:
    """Whether a node can lack a resource: pods only where it says how many it takes."""
    return name != "pods" or name in node.allocatable


def matches(node: Node, selector: Mapping[str, str]) -> bool:
    """Whether a node carries all labels of a selector."""
    return all(node.labels.get(key) == value for key, value in selector.items())


def offered(node: Node, requests: Amounts) -> int:
    """Slots that an empty node holds."""
    return _fit(node, requests, {})


def free(node: Node, requests: Amounts) -> int:
    """Slots that a node holds beside what is on it."""
    return _fit(node, requests, node.used)


def _fit(node: Node, requests: Amounts, used: Amounts) -> int:
    """How often the requests fit."""
    least = MOST
    for name, amount in requests.items():
        if counts(node, name):
            times = (node.allocatable.get(name, 0) - used.get(name, 0)) // amount
            least = min(least, times)
    return max(0, least)


def barred(node: Node, scheduling: Scheduling) -> str:
    """What keeps every slot off a node that matches the selector; empty when nothing does."""
    if not node.ready:
        return "not ready"
    taints = (*node.taints, _CORDONED) if node.unschedulable else node.taints
    for taint in taints:
        if taint.effect in _HARD and not any(_tolerates(t, taint) for t in scheduling.tolerations):
            return "cordoned" if taint.key == _CORDONED.key else f"tainted {taint}"
    return ""


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect is not None and toleration.effect != taint.effect:
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    return toleration.key == taint.key and (toleration.operator == "Exists" or (toleration.value or "") == taint.value)
