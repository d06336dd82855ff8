"""What a person reads of a failure, from pods as kubelets, schedulers and controllers leave them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moe_operator.reconcile.causes import Failure, failure, node_lost, waiting

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
            "slot 0 on node-0: container runtime ran out of memory (OOMKilled)",
        ),
        (
            ended(exitCode=3, message="Traceback\n  …\nValueError: tensor lm_head is missing\n\n"),
            "ContainerExited",
            "slot 0 on node-0: container runtime exited with 3: ValueError: tensor lm_head is missing",
        ),
        (
            ended(exitCode=139, signal=11),
            "ContainerExited",
            "slot 0 on node-0: container runtime exited with 139 (signal 11)",
        ),
        (ended(exitCode=0, reason="Completed"), "ContainerExited", "slot 0 on node-0: container runtime exited with 0"),
        (
            ended(exitCode=128, reason="StartError", message="exec: python: not found"),
            "StartError",
            "slot 0 on node-0: container runtime could not be started: exec: python: not found",
        ),
        (
            {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no nvidia.com/gpu left"},
            "UnexpectedAdmissionError",
            "slot 0 on node-0: no nvidia.com/gpu left",
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


@pytest.mark.parametrize(
    "reason", ["CreateContainerConfigError", "InvalidImageName", "ErrImageNeverPull", "CreateContainerError"]
)
def test_what_keeps_a_container_from_starting_is_told(reason: str) -> None:
    state = {"waiting": {"reason": reason, "message": 'secret "key" not found'}}
    stuck = pod(0, phase="Pending", containerStatuses=[{"name": "runtime", "state": state, "restartCount": 0}])
    assert found(stuck) is None
    assert waiting({0: stuck}) == Failure(
        reason, 'slot 0 on node-0: container runtime does not start: secret "key" not found'
    )


def test_a_container_that_is_being_created_is_not_stuck() -> None:
    state = {"waiting": {"reason": "ContainerCreating"}}
    assert waiting({0: pod(0, containerStatuses=[{"name": "runtime", "state": state}])}) is None


def test_a_very_long_last_line_is_cut() -> None:
    failed = found(pod(0, **ended(message="x" * 5000)))
    assert failed is not None
    assert len(failed[1]) < 400
    assert failed[1].endswith("x…")
