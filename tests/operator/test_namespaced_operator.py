"""An operator of some namespaces, with a Role in each of them and little in the cluster."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import Account, bind, eventually, install, running

from moe_operator.resources import member_role, resources, wide_role

pytestmark = pytest.mark.slow

NARROW = Account("moe-narrow-system", "moe-narrow")


@pytest.fixture
def grounds(plane: ControlPlane, frontends: Frontends) -> Iterator[tuple[Ground, Ground]]:
    """A namespace that is watched and one that is not."""
    frontends.status, frontends.metrics = 200, ""
    watched, other = (Ground(plane, frontends.port, nodes=5) for _ in range(2))
    install(plane, NARROW, [watched.namespace])
    yield watched, other
    for ground in (watched, other):
        plane.kubectl("delete", "moed", "--all", f"--namespace={ground.namespace}", "--wait=false")


def requests(plane: ControlPlane) -> list[dict[str, Any]]:
    user = f"system:serviceaccount:{NARROW.namespace}:{NARROW.name}"
    lines = (plane.folder / "audit.log").read_text().splitlines()
    entries = (json.loads(line) for line in lines if line.endswith("}"))
    return [entry for entry in entries if entry["user"]["username"] == user and "objectRef" in entry]


def holder(ground: Ground, node: str) -> dict[str, Any]:
    """A pod of somebody else that holds all GPUs of a node."""
    gpus = {"nvidia.com/gpu": "8"}
    container = {"name": "c", "image": "i", "resources": {"requests": gpus, "limits": gpus}}
    metadata = {"name": "holder", "namespace": ground.namespace}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [container], "tolerations": [{"operator": "Exists"}]},
    }


def test_it_runs_deployments_where_it_may_and_asks_for_nothing_else(
    plane: ControlPlane, grounds: tuple[Ground, Ground], tmp_path: Path
) -> None:
    watched, other = grounds
    held = watched.node_names[0]
    eventually(lambda: plane.kubectl("get", "serviceaccount/default", f"-n={other.namespace}").returncode == 0, "ready")
    plane.apply(holder(other, held))
    eventually(lambda: watched.ready_nodes() == 5, "the nodes are ready")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hook = (f"--webhook=https://127.0.0.1:{port}", f"--webhook-port={port}")
    own = (f"--lease={NARROW.name}", f"--owner={NARROW.name}", f"--watch-namespace={watched.namespace}")
    with running(plane, tmp_path, *own, *hook, account=NARROW) as operator:
        other.apply(other.deployment())
        watched.apply(watched.deployment(replicas=2))
        watched.wait_ready(2)
        assert {pod["spec"]["nodeName"] for pod in watched.pods().values()} == set(watched.node_names) - {held}
        plane.kubectl("scale", "moed/m", f"-n={watched.namespace}", "--replicas=1")
        watched.wait_ready(1)
        eventually(lambda: reviewed(plane) == [watched.namespace], f"it reviews what it runs: {operator.log}")
        assert operator.stop() == 0, operator.log
    assert other.status() == {}
    assert other.children() == []
    made = requests(plane)
    assert [entry["requestURI"] for entry in made if entry["responseStatus"]["code"] == 403] == []
    wide = {rule for entry in made if "namespace" not in entry["objectRef"] for rule in [asked(entry)]}
    assert wide == allowed(wide_role("")) - {("create", "validatingwebhookconfigurations")}  # logged as a patch
    within = {asked(entry) for entry in made if entry["objectRef"].get("namespace") == watched.namespace}
    optional = {row.plural for row in resources() if row.optional}
    expected = {(verb, plural) for verb, plural in allowed(member_role("", "")) if plural not in optional}
    created_by_applying = {(verb, plural) for verb, plural in expected if verb == "create" and plural != "events"}
    assert within <= expected
    seldom = {("get", "pods"), ("patch", "serviceaccounts"), ("list", "events")}
    assert expected - within - created_by_applying <= seldom
    plane.kubectl("delete", "validatingwebhookconfiguration", NARROW.name)


def test_a_namespace_that_refuses_it_keeps_no_other_waiting_and_is_served_once_it_does_not(
    plane: ControlPlane, grounds: tuple[Ground, Ground], tmp_path: Path
) -> None:
    watched, late = grounds
    both = (f"--watch-namespace={watched.namespace}", f"--watch-namespace={late.namespace}")
    with running(plane, tmp_path, f"--lease={NARROW.name}", *both, account=NARROW) as operator:
        late.apply(late.deployment())
        watched.apply(watched.deployment())
        watched.wait_ready(1)
        assert f"/namespaces/{late.namespace}/moedeployments is refused; is the operator's Role" in operator.log
        assert late.status() == {}
        bind(plane, NARROW, member_role(f"{NARROW.name}-deployments", late.namespace))
        late.wait_ready(1)
        assert operator.stop() == 0, operator.log


def asked(entry: dict[str, Any]) -> tuple[str, str]:
    reference = entry["objectRef"]
    part = reference.get("subresource")
    return entry["verb"], f"{reference['resource']}/{part}" if part else reference["resource"]


def allowed(role: dict[str, Any]) -> set[tuple[str, str]]:
    return {(verb, plural) for rule in role["rules"] for verb in rule["verbs"] for plural in rule["resources"]}


def reviewed(plane: ControlPlane) -> list[str]:
    """Namespaces whose manifests the API server asks the operator about."""
    done = plane.kubectl("get", "validatingwebhookconfiguration", NARROW.name, "-o", "json")
    if done.returncode:
        return []
    (hook,) = json.loads(done.stdout)["webhooks"]
    (expression,) = hook["namespaceSelector"]["matchExpressions"]
    values: list[str] = expression["values"]
    return values
