"""What a real API server makes of our objects: defaults and spellings of its own must not look like a change."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from control_plane import ControlPlane
from simulated import gpu_node, manifest

from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.model import View

KINDS = "services,serviceaccounts,configmaps,poddisruptionbudgets,networkpolicies"

EVERYTHING: dict[str, Any] = {
    "runtime": {
        "env": [{"name": "A", "value": "1"}],
        "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
        "podTemplate": {"metadata": {"annotations": {"a": "b"}}},
    },
    "scheduling": {"tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {}},
}


@pytest.mark.slow
@pytest.mark.parametrize("spec", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_api_servers_own_copy_of_what_was_written_is_as_wanted(plane: ControlPlane, spec: dict[str, Any]) -> None:
    name = "drift-a" if spec else "drift-b"
    wanted = manifest(name, **spec)
    wanted["metadata"] = {"name": name, "namespace": "default"}
    plane.apply(wanted)
    nodes = tuple(gpu_node(f"{name}-{i}") for i in range(2))
    decision = decide(view(plane, name, nodes))
    for stage in decision.stages:
        for write in stage:
            plane.apply(dict(write.object))
    status = {**read(plane, "moedeployment", name), "status": decision.status}
    status["metadata"] = {"name": name, "namespace": "default"}
    done = plane.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", stdin=json.dumps(status))
    assert done.returncode == 0, done.stderr
    again = decide(view(plane, name, nodes))
    assert [write.object["metadata"]["name"] for stage in again.stages for write in stage] == []
    assert again.status is None


def view(plane: ControlPlane, name: str, nodes: tuple[dict[str, Any], ...]) -> View:
    selector = f"moe-operator.dev/deployment={name}"
    return View(
        deployment=read(plane, "moedeployment", name),
        now=datetime.now(UTC),
        children=tuple(read(plane, KINDS, "-l", selector)["items"]),
        pods=tuple(read(plane, "pods", "-l", selector)["items"]),
        nodes=nodes,
    )


def read(plane: ControlPlane, *what: str) -> dict[str, Any]:
    done = plane.kubectl("get", "-n", "default", "-o", "json", *what)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
