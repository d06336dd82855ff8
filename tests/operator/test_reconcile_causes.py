"""What a person reads of a failure, from pods as kubelets, schedulers and controllers leave them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moe_operator.reconcile.causes import failure, node_lost, refusal

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def node(name: str, status: str = "True", seconds_ago: int = 3600) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    return {
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": since}]},
    }


def pod(slot: int, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"m-0-{slot}"}, "spec": {"nodeName": f"node-{slot}"}, "status": status}


def ended(at: str = "2026-11-21T11:59:00Z", **terminated: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": at} | terminated}
    return {"phase": "Failed", "containerStatuses": [{"name": "runtime", "restartCount": 0, "state": state}]}


def found(*pods: dict[str, Any], nodes: dict[str, Any] | None = None) -> tuple[str, str] | None:
    """Reason and message of the root cause."""
    placed = tuple(f"node-{slot}" for slot in range(len(pods)))
    here = {name: node(name) for name in placed} if nodes is None else nodes
    cause = failure(dict(enumerate(pods)), here, placed, NOW)
    return (cause.reason, cause.message) if cause else None


RUNNING = {"phase": "Running", "containerStatuses": [{"name": "runtime", "state": {"running": {}}, "restartCount": 0}]}


def test_pods_that_run_or_start_are_no_failure() -> None:
    assert found(pod(0, **RUNNING), pod(1)) is None


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (
            ended(exitCode=137, reason="OOMKilled"),
            "OOMKilled",
            "slot 0 on node-0: container runtime ran out of memory (OOMKilled); raise runtime.resources.limits.memory, or "
            "leave it out; what ranks share in /dev/shm counts for it too",
        ),
        (
            ended(exitCode=3, message="Traceback\n  …\nValueError: tensor lm_head is missing\n\n"),
            "ContainerExited",
            "slot 0 on node-0: container runtime exited with 3: Traceback | … | ValueError: tensor lm_head "
            "is missing",
        ),
        (
            ended(exitCode=139, signal=11),
            "ContainerExited",
            "slot 0 on node-0: container runtime exited with 139 (signal 11)",
        ),
        (ended(exitCode=0, reason="Completed"), "ContainerExited", "slot 0 on node-0: container runtime exited with 0"),
        (
            ended(exitCode=128, reason="StartError", message="exec: python: not found"),
            "ContainerNotStarted",
            "slot 0 on node-0: container runtime could not be started: exec: python: not found; see whether runtime.image "
            "has that command, and for this node's architecture",
        ),
        (
            {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no nvidia.com/gpu left"},
            "DeviceRefused",
            "slot 0 on node-0: UnexpectedAdmissionError: no nvidia.com/gpu left; see the device plugin's pods on the node",
        ),
        ({"phase": "Failed"}, "PodFailed", "slot 0 on node-0: phase Failed"),
        (
            {"phase": "Running", "containerStatuses": [
                {"name": "runtime", "state": {"running": {}}, "restartCount": 2, "lastState": {"terminated": {"exitCode": 7}}}
            ]},
            "ContainerExited",
            "slot 0 on node-0: container runtime exited with 7",
        ),
    ],
)  # fmt: skip
def test_a_container_that_ended_is_the_cause(status: dict[str, Any], reason: str, message: str) -> None:
    assert found(pod(0, **status), pod(1, **RUNNING)) == (reason, message)


@pytest.mark.parametrize(
    ("target", "reason", "message"),
    [
        ("PreemptionByScheduler", "Preempted", "slot 1: pod m-0-1 was preempted by a pod of higher priority"),
        ("EvictionByEvictionAPI", "Evicted", "slot 1: pod m-0-1 was evicted from node-1, as when a node is drained"),
        ("DeletionByTaintManager", "NodeTainted", "slot 1: pod m-0-1 was evicted from node-1 by a taint"),
        ("DeletionByPodGC", "NodeLost", "slot 1: pod m-0-1 was collected since node-1 is gone"),
        (None, "PodDeleted", "slot 1: pod m-0-1 was deleted"),
    ],
)
def test_a_pod_that_is_taken_away_is_the_cause(target: str | None, reason: str, message: str) -> None:
    taken = pod(1, **RUNNING)
    taken["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    if target:
        taken["status"] = RUNNING | {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": target}]}
    assert found(pod(0, **ended()), taken) == (reason, message)


def test_a_pod_that_the_kubelet_evicted_says_why() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    gone = pod(
        0, phase="Failed", reason="Evicted", message="The node was low on resource: memory.", conditions=[target]
    )
    assert found(gone) == (
        "Evicted",
        "slot 0: pod m-0-0 was ended by the kubelet of node-0: The node was low on resource: memory.",
    )


def test_of_several_containers_the_one_that_ended_first_is_the_cause() -> None:
    late = pod(0, **ended("2026-11-21T11:59:30Z", message="NCCL: connection reset by peer"))
    first = pod(1, **ended("2026-11-21T11:59:00Z", reason="OOMKilled"))
    failed = found(late, first)
    assert failed is not None
    assert failed[0] == "OOMKilled"


def test_a_lost_node_comes_before_what_its_loss_broke() -> None:
    nodes = {"node-0": node("node-0")}
    assert found(pod(0, **ended()), pod(1, **RUNNING), nodes=nodes) == ("NodeLost", "slot 1: node node-1 is gone")


def test_a_node_is_lost_when_it_is_gone_or_silent_for_longer_than_the_grace_period() -> None:
    nodes = {"a": node("a"), "b": node("b", "Unknown", 10), "c": node("c", "False", 31)}
    assert [node_lost(name, nodes, NOW) for name in ("a", "b", "c", "d")] == [False, False, True, True]


def test_a_done_init_container_is_as_it_should_be() -> None:
    fetched = {"name": "fetch", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}, "restartCount": 1}
    assert found(pod(0, phase="Pending", initContainerStatuses=[fetched])) is None
    broken = {"name": "fetch", "state": {"terminated": {"exitCode": 1, "message": "404"}}, "restartCount": 0}
    assert found(pod(0, phase="Failed", initContainerStatuses=[broken])) == (
        "ContainerExited",
        "slot 0 on node-0: container fetch exited with 1: 404",
    )


def test_a_very_long_last_line_is_cut() -> None:
    failed = found(pod(0, **ended(message="x" * 5000)))
    assert failed is not None
    assert len(failed[1]) < 500
    assert failed[1].endswith("x…")


def test_memory_that_ran_out_is_told_with_its_limit() -> None:
    killed = pod(0, **ended(exitCode=137, reason="OOMKilled"))
    killed["spec"]["containers"] = [{"name": "runtime", "resources": {"limits": {"memory": "64Gi"}}}]
    failed = found(killed)
    assert failed is not None
    assert "(OOMKilled), with a limit of 64Gi; raise" in failed[1]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "DiskFull: /models: 61.2 GB are to be fetched, and 20.1 GB are free; give the pod a larger volume",
            "DiskFull",
        ),
        ("OSError: [Errno 28] No space left on device", "DiskFull"),
        ("SourceDenied: org/model: no access; set HF_TOKEN to a token that may read it", "SourceDenied"),
        (
            "NameUnknown: the frontend's name m-0-0.m-0.team is not known: DNS says: Name or service not known",
            "NameUnknown",
        ),
        ("CheckpointUnusable: /models: config.json is missing", "CheckpointUnusable"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "GpuMemoryExceeded"),
        ("Disk full of emotions", "ContainerExited"),
    ],
)
def test_what_a_container_says_at_its_end_gives_the_reason(said: str, reason: str) -> None:
    failed = found(pod(0, **ended(message=f"{said}\n")), pod(1, **RUNNING))
    assert failed is not None
    assert failed[0] == reason
    assert failed[1].startswith("slot 0 on node-0: container runtime exited with 1: ")
    assert said.removeprefix(f"{reason}: ") in failed[1]
    assert f"{reason}: " not in failed[1], "the word is the reason, and not said twice"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("OutOfcpu", "KubeletRefused"),
        ("OutOfnvidia.com/gpu", "KubeletRefused"),
        ("NodeAffinity", "KubeletRefused"),
        ("TaintToleration", "KubeletRefused"),
        ("UnexpectedAdmissionError", "DeviceRefused"),
        ("NodeShutdown", "NodeShutdown"),
        ("Terminated", "NodeShutdown"),
        ("Evicted", "Evicted"),
        ("SomethingOfTomorrow", "PodFailed"),
    ],
)
def test_a_kubelets_own_word_stands_in_the_message_and_ours_is_the_reason(word: str, reason: str) -> None:
    failed = found(pod(0, phase="Failed", reason=word, message="it would not"))
    assert failed is not None
    assert failed[0] == reason
    assert f"slot 0 on node-0: {word}: it would not" in failed[1]


# As the API server of Kubernetes 1.36 answers, recorded.
REFUSED = "PATCH /api/v1/namespaces/team/pods/m-0-1: HTTP 403: "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('pods "m-0-1" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1', "QuotaExceeded"),
        ('pods "m-0-1" is forbidden: failed quota: few: must specify limits.cpu for: runtime', "QuotaExceeded"),
        ('pods "m-0-1" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi', "LimitRangeRefused"),
        ('pods "m-0-1" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes', "PodSecurityRefused"),
        (
            'pods "m-0-1" is forbidden: User "system:serviceaccount:moe-operator-system:moe-operator" cannot patch resource '
            '"pods" in API group "" in the namespace "team"',
            "OperatorForbidden",
        ),
        ('pods "m-0-1" is forbidden: no PriorityClass with name high was found', "PriorityClassMissing"),
        ('pods "m-0-1" is forbidden: unable to create new content in namespace team because it is being terminated',
         "NamespaceTerminating"),
        ('admission webhook "policy.example.com" denied the request: no images from there', "PolicyRefused"),
        ("ValidatingAdmissionPolicy 'gpus' with binding 'b' denied request: too many", "PolicyRefused"),
        ("the body is not to my taste", "WriteRefused"),
    ],
)  # fmt: skip
def test_what_the_api_server_refuses_is_told_apart(said: str, reason: str) -> None:
    found = refusal(REFUSED + said)
    assert found.reason == reason
    assert found.message.startswith(REFUSED + said + "; "), "its words, then what to do"
