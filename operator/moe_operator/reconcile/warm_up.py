"""One decision before any that somebody waits for: catalogues are read and templates compiled, which takes 0.1 s."""

from datetime import UTC, datetime

from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.model import Object, View
from moe_plan.spec import API_VERSION, KIND

_DEPLOYMENT: Object = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "warm-up", "namespace": "default", "uid": "0", "generation": 1},
    "spec": {
        "model": {"architecture": "seed-s1", "source": "random"},
        "hardware": {"accelerator": "seed-64gb"},
        "parallelism": {"ep": 8, "tp": 2},
    },
}


def warm_up() -> None:
    """Decide on a deployment of two pods that is nowhere."""
    view = View(deployment=_DEPLOYMENT, now=datetime.now(UTC), nodes=tuple(_node(name) for name in ("a", "b")))
    assert decide(view).stages, "its pods find room"


def _node(name: str) -> Object:
    amounts = {"nvidia.com/gpu": "8", "cpu": "8", "memory": "64Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    metadata = {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}}
    return {"kind": "Node", "metadata": metadata, "spec": {}, "status": {"allocatable": amounts, "conditions": [ready]}}
