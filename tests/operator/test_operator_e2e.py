"""The operator as a process under its own rules, on a real control plane with fake nodes."""

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import HOME, NAME, Operator, cpu_s, eventually, install, resident_mb, running, start

from moe_operator.resources import resources
from moe_operator.webhook.certificates import issue
from moe_plan.loads import LOADS_VERSION

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def earlier(plane: ControlPlane) -> int:
    """Requests of the operators of other tests, some of which may not do all."""
    return len(operator_requests(plane))


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, earlier: int) -> ControlPlane:
    assert earlier >= 0
    install(plane)
    plane.kubectl("delete", "lease", NAME, f"--namespace={HOME}")  # of the operators of other tests: made anew here
    return plane


@pytest.fixture
def operator(installed: ControlPlane, tmp_path: Path) -> Iterator[Operator]:
    with running(installed, tmp_path) as process:
        yield process
        assert process.process.poll() is None, process.log
        assert "Traceback" not in process.log


@pytest.fixture
def ground(installed: ControlPlane, frontends: Frontends) -> Iterator[Ground]:
    frontends.status, frontends.metrics = 200, ""
    ground = Ground(installed, frontends.port, nodes=6)
    yield ground
    installed.kubectl("delete", "moed", "--all", f"--namespace={ground.namespace}", "--wait=false")


Story = Callable[[Operator, Ground], None]
Told = Mapping[str, Future[None]]
_STORIES: dict[str, Story] = {}


def side_by_side(story: Story) -> Callable[[Told], None]:
    """A test that waits more than it works: all such are run at once, each in a namespace, under one operator."""
    _STORIES[story.__name__] = story

    def test(told: Told) -> None:
        told[story.__name__].result()

    return test


@pytest.fixture(scope="module")
def told(installed: ControlPlane, frontends: Frontends, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """How the stories that are told side by side ended."""
    frontends.status, frontends.metrics = 200, ""
    grounds = {name: Ground(installed, frontends.port, nodes=4) for name in _STORIES}
    with running(installed, tmp_path_factory.mktemp("stories")) as operator, ThreadPoolExecutor() as pool:
        ends = {name: pool.submit(_STORIES[name], operator, ground) for name, ground in grounds.items()}
        wait(ends.values())
        assert operator.process.poll() is None, operator.log
        assert "Traceback" not in operator.log
    for ground in grounds.values():
        installed.kubectl("delete", "moed", "--all", f"--namespace={ground.namespace}", "--wait=false")
    return ends


def operator_requests(plane: ControlPlane) -> list[dict[str, Any]]:
    """Requests of the operator in the API server's audit log."""
    lines = (plane.folder / "audit.log").read_text().splitlines()
    entries = (json.loads(line) for line in lines if line.endswith("}"))
    own = (entry for entry in entries if entry["user"]["username"] == f"system:serviceaccount:{HOME}:{NAME}")
    return [entry for entry in own if "objectRef" in entry]


def is_refused(entry: Mapping[str, Any]) -> bool:
    """Whether the operator's account may not do what it asked for, as where another test uses it for want of rights."""
    return bool(entry["responseStatus"]["code"] == 403)


def writes(plane: ControlPlane) -> list[tuple[str, str]]:
    """Verb and path of each write of the operator but those to its lease."""
    return [
        (entry["verb"], entry["requestURI"].partition("?")[0])
        for entry in operator_requests(plane)
        if entry["verb"] not in ("get", "list", "watch") and entry["objectRef"]["resource"] != "leases"
    ]


def test_sixteen_pods_are_bound_and_the_deployment_is_ready_once_its_endpoint_answers(
    operator: Operator, ground: Ground, frontends: Frontends
) -> None:
    frontends.status = 503
    whole = Ground(ground.plane, frontends.port, nodes=16)
    before = len(writes(ground.plane))
    whole.apply(whole.deployment(ep=64))
    eventually(lambda: [p["status"].get("phase") for p in whole.pods().values()] == ["Running"] * 16, "16 running pods")
    pods = whole.pods()
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == set(whole.node_names)
    eventually(lambda: "503" in json.dumps(whole.status()), "the status says what /health answered")
    assert whole.condition("Ready")[0] == "False"
    frontends.status = 200
    done = whole.plane.kubectl("wait", "moed/m", f"-n={whole.namespace}", "--for=condition=Ready", "--timeout=50s")
    assert done.returncode == 0, done.stderr + operator.log
    whole.wait_ready(1)
    made = writes(ground.plane)[before:]
    assert sorted(path for _, path in made if path.count("/pods/")) == sorted(
        f"/api/v1/namespaces/{whole.namespace}/pods/{name}" for name in pods
    ), "one write a pod"
    statuses = [path for _, path in made if path.endswith("/status")]
    assert len(statuses) <= len(pods), "pods that become ready in one moment share a status write"
    whole.delete()
    whole.wait_gone()


def test_scaling_adds_and_removes_the_highest_replica_and_touches_no_other(operator: Operator, ground: Ground) -> None:
    ground.apply(ground.deployment())
    ground.wait_ready(1)
    before = {name: pod["metadata"]["uid"] for name, pod in ground.pods().items()}
    done = ground.plane.kubectl("scale", "moed/m", f"-n={ground.namespace}", "--replicas=3")
    assert done.returncode == 0, done.stderr
    ground.wait_ready(3)
    assert len(ground.pods()) == 6
    ground.plane.kubectl("scale", "moed/m", f"-n={ground.namespace}", "--replicas=1")
    ground.wait_ready(1)
    eventually(lambda: {n: p["metadata"]["uid"] for n, p in ground.pods().items()} == before, "only replica 0 is left")
    assert not [child for child in ground.children() if child["metadata"]["name"] in ("m-1", "m-2")], operator.log


def test_a_deployment_deleted_while_the_operator_is_down_leaves_nothing(ground: Ground, tmp_path: Path) -> None:
    with running(ground.plane, tmp_path) as operator:
        ground.apply(ground.deployment())
        ground.wait_ready(1)
        operator.kill()
        ground.delete()
        ground.wait_gone()


def test_a_new_operator_finds_all_as_wanted_and_writes_nothing(ground: Ground, tmp_path: Path) -> None:
    with running(ground.plane, tmp_path) as first:
        ground.apply(ground.deployment(replicas=2))
        ground.wait_ready(2)
        assert first.stop() == 0, first.log
    version = ground.get("moed")[0]["metadata"]["resourceVersion"]
    before = writes(ground.plane)
    with running(ground.plane, tmp_path, identity="operator-b") as second:
        ground.apply(ground.deployment("other"))
        ground.wait_ready(1, "other")
        assert ground.get("moed")[0]["metadata"]["resourceVersion"] == version, second.log
        again = [path for _, path in writes(ground.plane)[len(before) :] if re.search(r"/m(-[^/]*)?(/status)?$", path)]
        assert again == []


@side_by_side
def test_hand_edits_and_deletions_are_made_good(operator: Operator, ground: Ground) -> None:
    ground.apply(ground.deployment())
    ground.wait_ready(1)
    service = ground.get("services", "--selector=moe-operator.dev/replica=0")[0]["metadata"]["name"]
    ground.plane.kubectl("delete", "service", service, f"-n={ground.namespace}")
    eventually(lambda: [s for s in ground.get("services") if s["metadata"]["name"] == service], "the service is back")
    budget = ground.get("poddisruptionbudgets")[0]
    patch = json.dumps({"metadata": {"labels": {"moe-operator.dev/replica": "7"}}})
    ground.plane.kubectl("patch", "pdb", budget["metadata"]["name"], f"-n={ground.namespace}", f"--patch={patch}")
    eventually(
        lambda: (
            [found["metadata"]["labels"]["moe-operator.dev/replica"] for found in ground.get("poddisruptionbudgets")]
            == ["0"]
        ),
        lambda: f"the label is back: {operator.log}",
    )


@side_by_side
def test_a_strangers_object_with_a_childs_name_is_left_alone_and_told(operator: Operator, ground: Ground) -> None:
    stranger = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "m-0", "namespace": ground.namespace},
        "data": {"whose": "mine"},
    }
    ground.plane.apply(stranger)
    ground.apply(ground.deployment())
    eventually(
        lambda: "m-0" in json.dumps(ground.status().get("conditions")), lambda: f"the status names it: {operator.log}"
    )
    held = next(c for c in ground.get("configmaps") if c["metadata"]["name"] == "m-0")
    assert held["data"] == {"whose": "mine"}
    assert ground.pods() == {}
    ground.plane.kubectl("delete", "configmap", "m-0", f"-n={ground.namespace}")
    ground.wait_ready(1)


def test_a_paused_deployment_is_left_alone_until_it_is_not(operator: Operator, ground: Ground) -> None:
    deployment = ground.deployment()
    deployment["metadata"]["annotations"] = {"moe-operator.dev/paused": "true"}
    ground.apply(deployment)
    ground.apply(ground.deployment("other"))
    ground.wait_ready(1, "other")
    assert [c["metadata"]["name"] for c in ground.children() if c["metadata"]["name"].startswith("m")] == []
    ground.plane.kubectl("annotate", "moed/m", f"-n={ground.namespace}", "moe-operator.dev/paused-", "--overwrite")
    ground.wait_ready(1)
    assert operator.process.poll() is None


def test_a_node_that_comes_later_is_used_at_once(operator: Operator, ground: Ground) -> None:
    late = Ground(ground.plane, ground.port, nodes=1)
    late.apply(late.deployment())
    eventually(lambda: late.condition("Placed")[0] == "False", lambda: f"not placed: {operator.log}")
    assert late.pods() == {}
    late.nodes = 2
    late.__post_init__()
    late.wait_ready(1)


@side_by_side
def test_a_model_configuration_that_comes_later_is_read(operator: Operator, ground: Ground) -> None:
    config = json.loads((Path(__file__).parents[2] / "operator/moe_plan/catalogue/models/seed-s1.json").read_text())
    text = json.dumps(config.get("config", config))
    source = {"configMapKeyRef": {"name": "model", "key": "config.json"}}
    model = {"configFrom": source, "source": "random", "dtype": "bfloat16"}
    ground.apply(ground.deployment(model=model))
    eventually(
        lambda: "model" in ground.condition("ParallelismValid")[2], lambda: f"the status asks for it: {operator.log}"
    )
    metadata = {"name": "model", "namespace": ground.namespace}
    ground.plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.json": text}})
    ground.wait_ready(1)


def test_expert_loads_of_a_config_map_reach_the_plan_and_a_change_of_them_replaces_no_pod(
    operator: Operator, ground: Ground
) -> None:
    def loads(last: int) -> dict[str, Any]:
        counts = [*range(1, 64), last]
        layers = {str(layer): counts for layer in range(16)}
        since = "2026-11-21T10:00:00Z"
        trace = {"version": LOADS_VERSION, "model": "seed-s1", "since": since, "tokens": 2000, "layers": layers}
        metadata = {"name": "loads", "namespace": ground.namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": json.dumps(trace)}}

    deployment = ground.deployment()
    deployment["spec"]["parallelism"]["expertLoadsFrom"] = {"configMapKeyRef": {"name": "loads", "key": "k"}}
    ground.apply(deployment)
    eventually(lambda: "ConfigMap loads" in ground.condition("ParallelismValid")[2], f"it is asked for: {operator.log}")
    ground.plane.apply(loads(last=5000))
    ground.wait_ready(1)
    (plan,) = (c["data"]["plan.json"] for c in ground.children() if "plan.json" in (c.get("data") or {}))
    assert len(json.loads(plan)["experts"]["exceptions"]) == 16
    before = {pod["metadata"]["uid"] for pod in ground.pods().values()}
    ground.plane.apply(loads(last=1))
    eventually(lambda: "the loads have changed" in ground.condition("ParallelismValid")[2], f"{operator.log}", 40)
    assert {pod["metadata"]["uid"] for pod in ground.pods().values()} == before


def test_of_two_operators_one_leads_and_the_other_takes_over(ground: Ground, tmp_path: Path) -> None:
    with running(ground.plane, tmp_path, identity="operator-a") as first:
        eventually(lambda: "leading as operator-a" in first.log, "the first leads")
        with running(ground.plane, tmp_path, identity="operator-b") as second:
            ground.apply(ground.deployment())
            ground.wait_ready(1)
            assert "leading" not in second.log
            first.kill()
            ground.apply(ground.deployment("after"))
            ground.wait_ready(1, "after")
            assert "leading as operator-b" in second.log
            third = start(ground.plane, tmp_path, identity="operator-c")
            try:
                assert second.stop() == 0, second.log
                eventually(lambda: "leading as operator-c" in third.log, "a lease given up is taken at once", 30)
            finally:
                third.kill()


@side_by_side
def test_measured_figures_reach_the_status(operator: Operator, ground: Ground) -> None:
    def figures(requests: int) -> str:
        lines = [f"moe_generated_tokens_total {requests * 100}"]
        for metric in ("moe_ttft_seconds", "moe_tpot_seconds"):
            lines += [f'{metric}_bucket{{le="{bound}"}} {requests}' for bound in ("0.05", "0.1", "+Inf")]
        return "\n".join([*lines, ""])

    with Frontends().serving() as frontends:
        frontends.metrics, ground.port = figures(1), frontends.port
        ground.apply(ground.deployment())
        ground.wait_ready(1)
        frontends.metrics = figures(11)
        eventually(lambda: ground.status().get("measured"), lambda: f"measured figures: {operator.log}")


def test_the_rules_allow_what_the_operator_does_and_nothing_else(
    installed: ControlPlane, earlier: int, ground: Ground, tmp_path: Path
) -> None:
    port = free_port()
    hook = (f"--webhook=https://127.0.0.1:{port}", f"--webhook-port={port}", f"--owner={NAME}")
    with running(installed, tmp_path, *hook) as operator:
        ground.apply(ground.deployment(replicas=2))
        ground.wait_ready(2)
        ground.plane.kubectl("scale", "moed/m", f"-n={ground.namespace}", "--replicas=1")
        ground.wait_ready(1)
        eventually(
            lambda: installed.kubectl("get", "validatingwebhookconfiguration", "-o", "name").stdout, operator.log
        )
    installed.kubectl("delete", "validatingwebhookconfiguration", "--all")
    requests = operator_requests(installed)
    assert [entry["requestURI"] for entry in requests[earlier:] if is_refused(entry)] == []
    done = [entry["objectRef"] | {"verb": entry["verb"]} for entry in requests if not is_refused(entry)]
    used = {(e["verb"], e["resource"], e.get("subresource", "")) for e in done}
    allowed = {(verb, row.plural, "") for row in resources() if not row.optional for verb in row.verbs}
    allowed |= {(verb, row.plural, "status") for row in resources() for verb in row.status_verbs}
    by_applying = {("create", plural, part) for verb, plural, part in used if verb == "patch"}  # logged as a patch
    # A certificate renewed, a pod's name taken, a pod that is stuck before its containers.
    seldom = {("patch", "secrets", ""), ("get", "pods", ""), ("list", "events", "")}
    assert (used | seldom) - by_applying == allowed - by_applying


def test_a_replica_that_a_quota_cuts_short_gives_its_pods_back_and_says_why(operator: Operator, ground: Ground) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": ground.namespace}}
    ground.plane.apply({**quota, "spec": {"hard": {"pods": "1"}}})
    eventually(lambda: "pods" in (ground.get("quota")[0].get("status") or {}).get("hard", {}), "the quota counts")
    ground.apply(ground.deployment(failure={"backoff": "1s"}))
    eventually(lambda: "exceeded quota: few" in ground.condition("Ready")[2], lambda: operator.log)
    eventually(lambda: not ground.pods(), "the half that was made is given back")
    eventually(lambda: ground.condition("Stalled")[:2] == ("True", "QuotaExceeded"), "a person is told")
    events = ground.get("events.events.k8s.io")
    assert "exceeded quota: few" in json.dumps([event for event in events if event["reason"] == "QuotaExceeded"])
    ground.plane.kubectl("delete", "quota", "few", f"-n={ground.namespace}")
    ground.wait_ready(1)


def test_the_operator_is_ready_once_it_watches_and_its_webhook_listens(installed: ControlPlane, tmp_path: Path) -> None:
    health, hook = free_port(), free_port()
    folder = tmp_path / "certificates"
    arguments = (f"--health-port={health}", f"--webhook=https://127.0.0.1:{hook}", f"--webhook-port={hook}")
    with running(installed, tmp_path, *arguments, f"--webhook-certificates={folder}") as operator:
        eventually(
            lambda: answer(health) == (503, "waits for: webhook\n"), lambda: f"it says what is missing: {operator.log}"
        )
        assert f"{folder}/ca.crt: No such file or directory; mount the certificate's Secret there" in operator.log
        folder.mkdir()
        bundle = issue(("127.0.0.1",), datetime.now(UTC))
        for name, content in (("tls.crt", bundle.certificate), ("tls.key", bundle.key), ("ca.crt", bundle.authorities)):
            (folder / name).write_bytes(content)
        eventually(lambda: answer(health) == (200, "leading\n"), lambda: operator.log)
    installed.kubectl("delete", "validatingwebhookconfiguration", "--all")


def answer(port: int) -> tuple[int, str]:
    """What /readyz says; 0 while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as said:
            return said.status, said.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_idle_operator_is_small_and_quiet(operator: Operator, ground: Ground) -> None:
    ground.apply(ground.deployment(replicas=3))
    ground.wait_ready(3)
    before, used = writes(ground.plane), cpu_s(operator.process)
    other = Ground(ground.plane, ground.port, nodes=2)
    other.apply(other.deployment())
    other.wait_ready(1)
    made = [path for _, path in writes(ground.plane)[len(before) :] if f"/{ground.namespace}/" in path]
    assert made == [], "one deployment's life makes no writes to another's"
    assert resident_mb(operator.process) < 150
    assert cpu_s(operator.process) - used < 20
