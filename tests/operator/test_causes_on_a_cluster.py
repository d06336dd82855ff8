"""A deployment that does not come up names the true cause within 30 s: on a real control plane.

What the scheduler, the API server and its admission do is theirs; what kubelets write into a pod's status, and which
events they post, is set as kubelets do.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import NAME, Operator, eventually, install, running

from moe_operator.resources import cluster_role

pytestmark = pytest.mark.slow

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    install(plane)
    with running(plane, tmp_path_factory.mktemp("causes")) as process:
        yield process


@pytest.fixture
def ground(operator: Operator, plane: ControlPlane, frontends: Frontends) -> Iterator[Ground]:
    """Two nodes and frontends that do not serve."""
    frontends.status = 503
    ground = Ground(plane, frontends.port, nodes=2)
    yield ground
    plane.kubectl("delete", "moed", "--all", f"--namespace={ground.namespace}", "--wait=false")
    assert operator.process.poll() is None, operator.log
    assert "Traceback" not in operator.log, operator.log


def cause(ground: Ground, reason: str, kind: str = "Ready") -> str:
    """The message of a condition once it has the reason, which must be soon."""
    eventually(lambda: ground.condition(kind)[1] == reason, f"{reason}: {ground.status()}", WITHIN_S)
    return ground.condition(kind)[2]


def on_nodes(ground: Ground) -> None:
    """Apply the deployment and wait until its pods are bound."""
    ground.apply(ground.deployment())
    eventually(lambda: [p["status"].get("phase") for p in ground.pods().values()] == ["Running"] * 2, "two pods run")


def kubelet_says(ground: Ground, pod: str, **status: Any) -> None:
    done = ground.plane.kubectl(
        "patch",
        "pod",
        pod,
        f"-n={ground.namespace}",
        "--subresource=status",
        f"--patch={json.dumps({'status': status})}",
    )
    assert done.returncode == 0, done.stderr


def node_of(ground: Ground, pod: str) -> str:
    return str(ground.pods()[pod]["spec"]["nodeName"])


def waits(reason: str, message: str = "") -> dict[str, Any]:
    """The status of a pod whose container waits."""
    state = {"name": "runtime", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False"}, {"type": "PodReadyToStartContainers", "status": "False"}],
        "containerStatuses": [{**state, "state": {"running": None, "waiting": {"reason": reason, "message": message}}}],
    }


def test_an_image_that_is_not_there(ground: Ground) -> None:
    on_nodes(ground)
    said = 'failed to pull and unpack image "docker.io/library/nope:1": docker.io/library/nope:1: not found'
    kubelet_says(ground, "m-0-1", **waits("ErrImagePull", said))
    told = cause(ground, "ImageNotFound")
    assert told == (
        f"replica 0: slot 1 on {node_of(ground, 'm-0-1')}: container runtime does not start: {said} (ErrImagePull); "
        "correct runtime.image, or push that image"
    )
    kubelet_says(ground, "m-0-1", **waits("ImagePullBackOff", f'Back-off pulling image "nope:1": ErrImagePull: {said}'))
    cause(ground, "ImageNotFound", "Stalled")
    events = [event["note"] for event in ground.get("events.events.k8s.io") if event["reason"] == "ImageNotFound"]
    assert len(events) == 1


def test_a_secret_that_is_not_there(ground: Ground) -> None:
    on_nodes(ground)
    kubelet_says(ground, "m-0-0", **waits("CreateContainerConfigError", 'secret "hf-token" not found'))
    assert 'secret "hf-token" not found' in cause(ground, "ReferenceMissing", "Stalled")


def test_a_directory_that_only_an_event_tells_of(ground: Ground, plane: ControlPlane) -> None:
    on_nodes(ground)
    kubelet_says(ground, "m-0-1", **waits("ContainerCreating"))
    pod = ground.pods()["m-0-1"]
    told = 'MountVolume.SetUp failed for volume "model" : hostPath type check failed: /data/m is not a directory'
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "m-0-1.1", "namespace": ground.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": "m-0-1",
                "namespace": ground.namespace,
                "uid": pod["metadata"]["uid"],
            },
            "reason": "FailedMount",
            "message": told,
            "type": "Warning",
            "count": 4,
            "firstTimestamp": "2026-11-21T12:00:00Z",
            "lastTimestamp": "2026-11-21T12:00:08Z",
            "source": {"component": "kubelet", "host": pod["spec"]["nodeName"]},
        }
    )
    message = cause(ground, "PathMissing", "Stalled")
    assert f"slot 1 on {pod['spec']['nodeName']}: its containers are not created: FailedMount: {told}; put" in message


def test_a_full_disk_in_the_cache(ground: Ground) -> None:
    on_nodes(ground)
    node = node_of(ground, "m-0-1")
    said = "/models/org/model/main: 61.2 GB are to be fetched, and 20.1 GB are free; give the pod a larger volume"
    ended = {"exitCode": 1, "reason": "Error", "message": f"DiskFull: {said}", "finishedAt": "2026-11-21T12:00:00Z"}
    state = {"name": "fetch", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    kubelet_says(ground, "m-0-1", phase="Failed", initContainerStatuses=[{**state, "state": {"terminated": ended}}])
    assert cause(ground, "DiskFull") == f"replica 0: slot 1 on {node}: container fetch exited with 1: {said}"
    assert ground.condition("Reconciling")[1] == "Restarting"
    assert ground.status()["replicaStatuses"][0]["lastReason"] == "DiskFull"


def test_a_claim_that_is_not_there_is_waited_for(ground: Ground, frontends: Frontends) -> None:
    frontends.status = 200
    model = {"architecture": "seed-s1", "source": "pvc://weights/s1", "dtype": "bfloat16"}
    ground.apply(ground.deployment(model=model))
    assert 'persistentvolumeclaim "weights" not found' in cause(ground, "ClaimMissing", "Stalled")
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "none"}
    ground.plane.apply({**claim, "metadata": {"name": "weights", "namespace": ground.namespace}, "spec": spec})
    assert "unbound" in cause(ground, "ClaimUnbound", "Stalled")
    volume: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"weights-{ground.namespace}"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": {"storage": "1Gi"},
            "storageClassName": "none",
            "claimRef": {"namespace": ground.namespace, "name": "weights"},
            "nfs": {"server": "nfs.example.com", "path": "/"},
        },
    }
    ground.plane.apply(volume)
    ground.wait_ready(1)
    assert ground.status()["replicaStatuses"][0]["restarts"] == 0


def test_what_the_namespaces_own_rules_refuse(ground: Ground) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": ground.namespace}}
    ground.plane.apply({**quota, "spec": {"hard": {"requests.nvidia.com/gpu": "8"}}})
    eventually(lambda: (ground.get("quota")[0].get("status") or {}).get("hard"), "the quota counts")
    ground.apply(ground.deployment())
    assert "exceeded quota: few, requested: requests.nvidia.com/gpu=8" in cause(ground, "QuotaExceeded", "Stalled")
    ground.plane.kubectl("delete", "quota", "few", f"-n={ground.namespace}")
    limits = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small", "namespace": ground.namespace}}
    ground.plane.apply({**limits, "spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}})
    ground.apply(ground.deployment(runtime={"resources": {"limits": {"memory": "2Gi"}}}))
    assert "maximum memory usage per Container is 1Gi" in cause(ground, "LimitRangeRefused", "Stalled")


def test_a_directory_of_the_node_that_pod_security_forbids(ground: Ground) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    ground.plane.kubectl("label", "namespace", ground.namespace, label)
    ground.apply(ground.deployment(model={"architecture": "seed-s1", "source": "file:///data/s1", "dtype": "bfloat16"}))
    assert "hostPath" in cause(ground, "PodSecurityRefused", "Stalled")


def test_a_right_that_the_operator_lacks(ground: Ground, plane: ControlPlane) -> None:
    role = cluster_role(NAME)
    lacking = [
        {**rule, "resources": [r for r in rule["resources"] if r != "networkpolicies"]} for rule in role["rules"]
    ]
    plane.apply({**role, "rules": [rule for rule in lacking if rule["resources"]]})
    try:
        ground.apply(ground.deployment())
        told = cause(ground, "OperatorForbidden", "Stalled")
        assert "cannot" in told
        assert 'resource "networkpolicies"' in told
        assert "ClusterRole" in told
    finally:
        plane.apply(role)


def test_a_node_that_is_cordoned_while_its_pod_serves(
    ground: Ground, frontends: Frontends, plane: ControlPlane
) -> None:
    frontends.status = 200
    ground.apply(ground.deployment())
    ground.wait_ready(1)
    node = node_of(ground, "m-0-1")
    plane.kubectl("cordon", node)
    assert f"node {node} is cordoned" in cause(ground, "NodeCordoned")
    assert ground.condition("Ready")[0] == "True"
    plane.kubectl("uncordon", node)
    cause(ground, "Serving")


def hold(ground: Ground, pod: str, finalizers: list[str]) -> None:
    """Let a pod that is deleted stay for as long as there are finalizers."""
    patch = json.dumps({"metadata": {"finalizers": finalizers}})
    done = ground.plane.kubectl("patch", "pod", pod, f"-n={ground.namespace}", "--type=merge", f"--patch={patch}")
    assert done.returncode == 0, done.stderr


def test_a_node_that_is_drained(ground: Ground, frontends: Frontends, plane: ControlPlane) -> None:
    frontends.status = 200
    ground.apply(ground.deployment())
    ground.wait_ready(1)
    node = node_of(ground, "m-0-1")
    hold(ground, "m-0-1", ["example.com/hold"])  # a kubelet takes its time; kwok takes none
    plane.kubectl("drain", node, "--force", "--delete-emptydir-data", "--timeout=2s")
    eventually(lambda: ground.status()["replicaStatuses"][0].get("lastReason") == "Evicted", "it is evicted", WITHIN_S)
    told = ground.status()["replicaStatuses"][0]["lastFailure"]
    assert f"slot 1: pod m-0-1 was evicted from {node}, as when a node is drained" in told
    hold(ground, "m-0-1", [])
    assert f"{node} cordoned" in cause(ground, "Unplaceable", "Placed")
    plane.kubectl("uncordon", node)
    ground.wait_ready(1)


def test_a_node_whose_kubelet_falls_silent(ground: Ground, plane: ControlPlane) -> None:
    on_nodes(ground)
    node = node_of(ground, "m-0-1")
    plane.kubectl("annotate", "node", node, "kwok.x-k8s.io/node-")
    silent = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    silent |= {"message": "Kubelet stopped posting node status.", "lastTransitionTime": datetime.now(UTC).isoformat()}
    patch = json.dumps({"status": {"conditions": [silent]}})
    plane.kubectl("patch", "node", node, "--subresource=status", f"--patch={patch}")
    told = cause(ground, "NodeNotReady")
    assert told == f"replica 0: slot 1: node {node} is not ready: Kubelet stopped posting node status."


def test_a_slow_slot_is_named_with_its_node(ground: Ground, frontends: Frontends) -> None:
    frontends.status = 200
    frontends.health = json.dumps({"status": "ready", "detail": "", "slow_slots": [{"slot": 1, "factor": 2.4}]})
    try:
        ground.apply(ground.deployment())
        told = cause(ground, "SlowSlot")
        assert f"slot 1 on {node_of(ground, 'm-0-1')} computes 2.4 times as long" in told
        assert ground.condition("Ready")[0] == "True"
        assert [event for event in ground.get("events.events.k8s.io") if event["reason"] == "SlowSlot"]
    finally:
        frontends.health = ""


def test_a_service_whose_frontend_no_kubelet_counts_as_ready(ground: Ground, frontends: Frontends) -> None:
    frontends.status = 200
    ground.apply(ground.deployment())
    ground.wait_ready(1)
    unready = {
        "type": "Ready",
        "status": "False",
        "reason": "ContainersNotReady",
        "message": "containers not ready: [runtime]",
    }
    kubelet_says(ground, "m-0-0", conditions=[unready])
    told = cause(ground, "ServiceWithoutEndpoints")
    assert told.endswith("Service m sends requests nowhere: containers not ready: [runtime]")
    assert ground.condition("Available")[:2] == ("False", "ServiceWithoutEndpoints")


def test_labels_that_no_node_has(ground: Ground) -> None:
    ground.apply(ground.deployment(scheduling={"nodeSelector": {"pol": ground.namespace}}))
    told = cause(ground, "Unplaceable", "Placed")
    assert f"no node has the label pol={ground.namespace}" in told
    assert f"the nearest that nodes have: pool={ground.namespace}" in told


def test_a_taint_that_is_not_tolerated_and_a_gpu_that_no_node_offers(ground: Ground, plane: ControlPlane) -> None:
    for node in ground.node_names:
        plane.kubectl("taint", "node", node, "dedicated=other:NoSchedule")
    ground.apply(ground.deployment())
    assert "tainted dedicated=other:NoSchedule" in cause(ground, "Unplaceable", "Placed")
    hardware = {"accelerator": "seed-64gb", "gpusPerNode": 8, "resourceName": "example.com/gpu"}
    ground.apply(ground.deployment("other", hardware=hardware))
    eventually(
        lambda: "no node offers example.com/gpu; nodes offer nvidia.com/gpu" in ground.condition("Placed", "other")[2],
        "the GPU's name is told",
        WITHIN_S,
    )
