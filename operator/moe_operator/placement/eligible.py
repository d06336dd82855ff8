"""Which nodes may take a slot, how many, and why the others may not.

Selectors, taints and cordons are read as the scheduler reads them:
https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/.
"""

from collections.abc import Mapping, Sequence

from moe_operator.placement.nodes import Amounts, Node, Taint
from moe_plan.spec import Scheduling, Toleration

_CORDONED = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_HARD = frozenset({"NoSchedule", "NoExecute"})


def matches(node: Node, selector: Mapping[str, str]) -> bool:
    """Whether a node carries all labels of a selector."""
    return all(node.labels.get(key) == value for key, value in selector.items())


def offered(node: Node, requests: Amounts) -> int:
    """Slots that an empty node holds."""
    return min(node.allocatable.get(name, 0) // amount for name, amount in _counted(node, requests))


def free(node: Node, requests: Amounts) -> int:
    """Slots that a node holds beside what is on it."""
    return max(0, min(node.free(name) // amount for name, amount in _counted(node, requests)))


def barred(node: Node, scheduling: Scheduling) -> str:
    """What keeps every slot off a node that matches the selector; empty when nothing does."""
    if not node.ready:
        return "not ready"
    taints = (*node.taints, _CORDONED) if node.unschedulable else node.taints
    for taint in taints:
        if taint.effect in _HARD and not any(_tolerates(t, taint) for t in scheduling.tolerations):
            return "cordoned" if taint.key == _CORDONED.key else f"tainted {taint}"
    return ""


def _counted(node: Node, requests: Amounts) -> Sequence[tuple[str, int]]:
    """Requests that a node can lack: pods are counted only where the node says how many it takes."""
    return [(name, n) for name, n in requests.items() if n > 0 and (name != "pods" or name in node.allocatable)]


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect is not None and toleration.effect != taint.effect:
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    return toleration.key == taint.key and (toleration.operator == "Exists" or (toleration.value or "") == taint.value)
