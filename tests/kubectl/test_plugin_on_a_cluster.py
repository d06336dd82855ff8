"""`kubectl moe` through kubectl, against a real control plane with a running operator and fake nodes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import eventually, install, running, write_kubeconfig

pytestmark = pytest.mark.slow

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def ground(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A ready deployment m of two slots, one without room, one that is invalid; and their operator."""
    install(plane)
    with Frontends().serving() as frontends, running(plane, tmp_path_factory.mktemp("operator")):
        ground = Ground(plane, frontends.port, nodes=3)
        ground.apply(ground.deployment("m"))
        ground.wait_ready(1, "m")
        ground.apply(ground.deployment("large", ep=64))
        ground.apply(ground.deployment("odd", ep=24))
        eventually(lambda: ground.condition("Placed", "large")[0] == "False", "large is not placed")
        eventually(lambda: ground.condition("ParallelismValid", "odd")[0] == "False", "odd is not valid")
        yield ground


@pytest.fixture
def environment(plane: ControlPlane, plugin_folder: Path) -> dict[str, str]:
    """A shell that has kubectl, the plugin and the administrator's kubeconfig."""
    path = f"{plugin_folder}:{plane.programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "KUBECONFIG": str(plane.kubeconfig)}


@pytest.fixture
def kubectl(environment: dict[str, str], ground: Ground) -> Kubectl:
    """Runs `kubectl ARGUMENTS… -n NAMESPACE`."""

    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", *arguments, "-n", ground.namespace]
        given = environment | changed
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_kubectl_finds_the_plugin(kubectl: Kubectl) -> None:
    assert "kubectl-moe" in kubectl("plugin", "list").stdout


def test_status_shows_the_deployment(kubectl: Kubectl) -> None:
    done = kubectl("moe", "status", "m")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m: seed-s1, ep8·tp2·pp1, 16 GPUs a replica, 1/1 ready\n  Ready True, Serving")
    assert "2/2" in done.stdout


def test_status_follows_what_changes_until_it_is_interrupted(environment: dict[str, str], ground: Ground) -> None:
    command = ["kubectl", "moe", "status", "m", "--watch", "-n", ground.namespace]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            assert "m: seed-s1" in watching.stdout.readline()
            ground.plane.kubectl("label", "moed", "m", "-n", ground.namespace, "seen=once")
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait(15) == 130


def test_the_plan_is_the_one_that_the_operator_made(kubectl: Kubectl, ground: Ground) -> None:
    plan = json.loads(kubectl("moe", "plan", "m", "-o", "json").stdout)
    assert plan["hash"] == ground.status("m")["plan"]["hash"]
    assert "m: the plan holds" in kubectl("moe", "plan", "m").stdout


def test_the_plan_of_another_version_of_moe_can_be_held_against_the_one_that_runs(
    kubectl: Kubectl, ground: Ground
) -> None:
    """As docs/upgrade.md has people do before an upgrade."""
    moe = Path(sys.executable).with_name("moe")
    written = kubectl("get", "moed", "m", "-o", "yaml").stdout
    command = [str(moe), "plan", "-o", "json", "-f", "-"]
    done = subprocess.run(command, input=written, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["hash"] == ground.status("m")["plan"]["hash"]


def test_why_tells_the_reason_and_the_section_to_read(kubectl: Kubectl) -> None:
    assert kubectl("moe", "why", "m").stdout == "m is ready\n"
    odd = kubectl("moe", "why", "odd").stdout
    assert odd.startswith("odd is not ready\n1. Stalled True, ExpertsNotDivisible\n")
    assert "docs/troubleshooting.md#expertsnotdivisible" in odd
    large = kubectl("moe", "why", "large").stdout
    assert "Placed False, Unplaceable" in large
    assert "needs room for 16 slots" in large


def test_describe_shows_slots_on_nodes(kubectl: Kubectl, ground: Ground) -> None:
    lines = kubectl("moe", "describe", "m").stdout.splitlines()
    assert lines[0].startswith("replica 0: Ready, 2 slots, placement score ")
    nodes = ground.status("m")["replicaStatuses"][0]["nodes"]
    assert [line.split()[4] for line in lines[-2:]] == nodes


def test_logs_finds_the_pod_of_a_rank(kubectl: Kubectl, ground: Ground) -> None:
    done = kubectl("moe", "logs", "m", "--rank", "9")
    node = ground.status("m")["replicaStatuses"][0]["nodes"][1]
    caption, *rest = done.stderr.splitlines()
    assert caption == f"rank 9 (stage 0, shard 4, tp 1): pod m-0-1, container runtime, node {node}"
    assert done.returncode == 1, "fake nodes have no kubelet to ask for logs"
    assert len(rest) == 1
    assert rest[0].startswith("error: ")
    assert kubectl("moe", "logs", "m", "--rank", "16").stderr == "error: m has no rank 16; its ranks are 0 to 15\n"


def test_top_tells_why_a_frontend_cannot_be_asked(kubectl: Kubectl) -> None:
    done = kubectl("moe", "top", "m")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("replica 0: no figures: "), "the API server forwards to no address of its own machine"


def test_a_user_without_rights_reads_which(kubectl: Kubectl, ground: Ground, tmp_path: Path) -> None:
    config = write_kubeconfig(ground.plane, tmp_path)
    done = kubectl("moe", "status", "m", KUBECONFIG=str(config))
    assert done.returncode == 1
    assert done.stderr.startswith("error: not allowed: moedeployments.moe-operator.dev")
    assert done.stderr.count("\n") == 1


def test_kubectl_completes_commands_and_names(environment: dict[str, str], ground: Ground) -> None:
    def offered(*words: str) -> list[str]:
        command = ["kubectl", "__complete", "moe", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.splitlines()

    assert offered("st") == ["status", ":4"]
    assert offered("status", "-n", ground.namespace, "") == ["large", "m", "odd", ":4"]
    assert offered("status", "-n", ground.namespace, "la") == ["large", ":4"]
