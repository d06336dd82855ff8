"""Whom to ask how a deployment's replicas are: their frontends, and the slots behind these. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from moe_operator.probe import Target
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import REPLICA_LABEL, SLOT_LABEL, label_number, phase, terminating, uid
from moe_plan.bundled import ENGINE as BUNDLED


def frontends(deployment: Object, children: Iterable[Object]) -> dict[int, Target]:
    """Frontends that can be asked, by replica, each with the other slots that run."""
    spec = deployment.get("spec") or {}
    port = int((spec.get("serving") or {}).get("port") or 8000)
    engine = str((spec.get("runtime") or {}).get("engine") or BUNDLED)
    slots: defaultdict[int, dict[int, Object]] = defaultdict(dict)
    for child in children:
        index, slot = label_number(child, REPLICA_LABEL), label_number(child, SLOT_LABEL)
        runs = child.get("kind") == "Pod" and phase(child) == "Running" and not terminating(child)
        if runs and index is not None and slot is not None and child["status"].get("podIP"):
            slots[index][slot] = child
    return {
        index: Target(uid(pods[0]), pods[0]["status"]["podIP"], port, engine, _addresses(pods))
        for index, pods in slots.items()
        if 0 in pods
    }


def _addresses(pods: Mapping[int, Object]) -> dict[int, str]:
    return {slot: str(pod["status"]["podIP"]) for slot, pod in pods.items() if slot}
