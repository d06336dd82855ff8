"""The operator beside other writers of the same object: kubectl, GitOps tools, an autoscaler."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import eventually, install, running

pytestmark = pytest.mark.slow

GITOPS = "kustomize-controller"
OPERATOR = "moe-operator"

Object = dict[str, Any]


@pytest.fixture(scope="module")
def ground(plane: ControlPlane) -> Iterator[Ground]:
    install(plane)
    with Frontends().serving() as frontends:
        ground = Ground(plane, frontends.port, nodes=4)
        yield ground
        plane.kubectl("delete", "moed", "--all", f"--namespace={ground.namespace}", "--wait=false")


def written(ground: Ground) -> Object:
    """What is in Git: no replicas, which are the autoscaler's."""
    deployment = ground.deployment(scheduling={"nodeSelector": {"pool": ground.namespace}})
    del deployment["spec"]["replicas"]
    deployment["metadata"]["labels"] = {"team": "search"}
    return deployment


def apply(ground: Ground, deployment: Object) -> None:
    arguments = ("apply", "--server-side", f"--field-manager={GITOPS}", "-f", "-")
    done = ground.plane.kubectl(*arguments, stdin=json.dumps(deployment))
    assert done.returncode == 0, done.stderr


def stored(ground: Ground, *arguments: str) -> Object:
    found = ground.plane.kubectl("get", "moed", "m", f"--namespace={ground.namespace}", "-o", "json", *arguments)
    deployment: Object = json.loads(found.stdout)
    return deployment


def owned_by(deployment: Object, manager: str) -> list[tuple[str, set[str]]]:
    """Subresource and sections of each record of a manager."""
    entries = deployment["metadata"]["managedFields"]
    return [(entry.get("subresource", ""), set(entry["fieldsV1"])) for entry in entries if entry["manager"] == manager]


def diff(ground: Ground, deployment: Object, *arguments: str) -> str:
    """What `kubectl diff` prints: nothing where applying would change nothing."""
    done = ground.plane.kubectl("diff", *arguments, "-f", "-", stdin=json.dumps(deployment))
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_the_operator_owns_the_status_alone_and_nobody_fights(ground: Ground, tmp_path: Path) -> None:
    deployment = written(ground)
    with running(ground.plane, tmp_path):
        apply(ground, deployment)
        ground.wait_ready(1)
        before = stored(ground, "--show-managed-fields")
        assert owned_by(before, OPERATOR) == [("status", {"f:status"})]
        assert diff(ground, deployment, "--server-side", f"--field-manager={GITOPS}") == ""
        assert diff(ground, deployment) == ""

        # An autoscaler writes the scale; what is in Git is applied again and leaves it alone.
        scaled = ground.plane.kubectl("scale", "moed/m", "--replicas=2", f"--namespace={ground.namespace}")
        assert scaled.returncode == 0, scaled.stderr
        ground.wait_ready(2)
        apply(ground, deployment)
        after = stored(ground, "--show-managed-fields")
        assert after["spec"]["replicas"] == 2
        assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
        assert owned_by(after, OPERATOR) == [("status", {"f:status"})]
        assert diff(ground, deployment, "--server-side", f"--field-manager={GITOPS}") == ""


def test_a_hand_on_a_child_is_undone_and_one_on_the_deployment_is_not(ground: Ground, tmp_path: Path) -> None:
    with running(ground.plane, tmp_path):
        apply(ground, written(ground))
        eventually(lambda: ground.condition("Available")[0] == "True", "available")
        space = f"--namespace={ground.namespace}"
        ground.plane.kubectl("label", "moed/m", "owner=me", space)
        other = json.dumps({"spec": {"selector": {"moe-operator.dev/role": "worker"}}})
        ground.plane.kubectl("patch", "service/m", space, "--type=merge", "--patch", other)

        def restored() -> bool:
            (service,) = (found for found in ground.get("services") if found["metadata"]["name"] == "m")
            return bool(service["spec"]["selector"]["moe-operator.dev/role"] == "frontend")

        eventually(restored, "the selector restored")
        assert stored(ground)["metadata"]["labels"] == {"team": "search", "owner": "me"}
