"""Nodes and pods as the API server gives them, counted as the scheduler counts."""

from typing import Any

import pytest

from moe_operator.placement import Node, Taint, nodes_from_objects, pod_requests, with_slots

GPU, HOST = "nvidia.com/gpu", "kubernetes.io/hostname"


def node(name: str = "n1", hostname: str | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {HOST: hostname or name}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "7910m", "memory": "16Gi", GPU: "8", "pods": "110"},
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
        },
    }


def pod(gpus: int | str = 8, *, phase: str = "Running", **spec: Any) -> dict[str, Any]:
    container = {"resources": {"requests": {GPU: gpus}, "limits": {GPU: gpus}}}
    return {"metadata": {"name": "p"}, "spec": {"containers": [container], **spec}, "status": {"phase": phase}}


def used(*pods: dict[str, Any], nodes: tuple[dict[str, Any], ...] = (node(), node("n2"))) -> dict[str, int]:
    return {found.name: found.used.get(GPU, 0) for found in nodes_from_objects(nodes, pods)}


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def test_a_node_is_read_with_its_quantities_as_integers() -> None:
    taints = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}, {"key": "x", "effect": "NoExecute"}]
    (found,) = nodes_from_objects([node(unschedulable=True, taints=taints)], [])
    assert found == Node(
        name="n1",
        labels={HOST: "n1"},
        allocatable={"cpu": 7910, "memory": 16 * 2**30, GPU: 8, "pods": 110},
        unschedulable=True,
        taints=(Taint("gpu", "yes", "NoSchedule"), Taint("x", "", "NoExecute")),
    )
    assert [str(taint) for taint in found.taints] == ["gpu=yes:NoSchedule", "x:NoExecute"]


@pytest.mark.parametrize("conditions", [None, [], [{"type": "Ready", "status": "Unknown"}]])
def test_a_node_that_does_not_say_that_it_is_ready_is_not(conditions: Any) -> None:
    silent = node() | {"status": {"conditions": conditions, "allocatable": {GPU: "8"}}}
    assert not nodes_from_objects([silent], [])[0].ready


def test_a_node_without_labels_spec_or_status_is_a_node_that_offers_nothing() -> None:
    assert nodes_from_objects([{"metadata": {"name": "bare"}}], []) == (Node("bare", ready=False),)


def test_pods_count_on_the_node_they_are_bound_to_until_they_have_finished() -> None:
    assert used(pod(2, nodeName="n1"), pod(3, nodeName="n1", phase="Pending"), pod(1, nodeName="n2")) == {
        "n1": 5,
        "n2": 1,
    }
    assert used(pod(2, nodeName="n1", phase="Succeeded"), pod(2, nodeName="n1", phase="Failed")) == {"n1": 0, "n2": 0}


def test_a_pod_that_is_being_deleted_still_counts() -> None:
    leaving = pod(2, nodeName="n1")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert used(leaving) == {"n1": 2, "n2": 0}


@pytest.mark.parametrize(
    "pinned",
    [
        {"nodeSelector": {HOST: "host-1"}},
        {"affinity": affinity({"matchExpressions": [{"key": HOST, "operator": "In", "values": ["host-1"]}]})},
        {"affinity": affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})},
    ],
)
def test_a_pending_pod_counts_on_the_one_node_that_it_can_go_to(pinned: dict[str, Any]) -> None:
    hosts = (node(hostname="host-1"), node("n2", hostname="host-2"))
    assert used(pod(4, phase="Pending", **pinned), nodes=hosts) == {"n1": 4, "n2": 0}


def test_a_nominated_pod_counts_on_its_node() -> None:
    waiting = pod(4, phase="Pending")
    waiting["status"]["nominatedNodeName"] = "n2"
    assert used(waiting) == {"n1": 0, "n2": 4}


@pytest.mark.parametrize(
    "loose",
    [
        {},
        {"affinity": {}},
        {"affinity": affinity({"matchExpressions": [{"key": HOST, "operator": "In", "values": ["n1", "n2"]}]})},
        {"affinity": affinity({"matchExpressions": [{"key": HOST, "operator": "NotIn", "values": ["n1"]}]})},
        {
            "affinity": affinity(
                {"matchExpressions": [{"key": HOST, "operator": "In", "values": ["n1"]}]},
                {"matchExpressions": [{"key": "pool", "operator": "Exists"}]},
            )
        },
    ],
)
def test_a_pending_pod_that_can_go_to_several_nodes_counts_on_none(loose: dict[str, Any]) -> None:
    assert used(pod(4, phase="Pending", **loose)) == {"n1": 0, "n2": 0}


def test_a_pod_takes_the_sum_of_its_containers_or_the_largest_of_its_start() -> None:
    def container(cpu: str, **more: Any) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    running = {"containers": [container("500m"), container("1")]}
    assert pod_requests({"spec": running}) == {"cpu": 1500, "pods": 1}
    started = running | {"initContainers": [container("3"), container("2")]}
    assert pod_requests({"spec": started}) == {"cpu": 3000, "pods": 1}
    sidecar = container("1", restartPolicy="Always")
    assert pod_requests({"spec": running | {"initContainers": [sidecar, container("2")]}})["cpu"] == 3000
    assert pod_requests({"spec": running | {"initContainers": [container("2"), sidecar]}})["cpu"] == 2500
    assert pod_requests({"spec": started | {"overhead": {"cpu": "250m", "memory": "1Ki"}}}) == {
        "cpu": 3250,
        "memory": 1024,
        "pods": 1,
    }
    assert pod_requests({"spec": running | {"resources": {"requests": {"cpu": "4"}}}})["cpu"] == 4000


def test_a_limit_stands_in_for_a_request() -> None:
    assert pod_requests({"spec": {"containers": [{"resources": {"limits": {GPU: "8"}}}]}}) == {GPU: 8, "pods": 1}
    assert pod_requests({"spec": {"containers": [{}]}}) == {"pods": 1}


def test_slots_placed_in_a_row_take_room_on_their_nodes() -> None:
    first, second = with_slots([Node("n1", used={GPU: 1}), Node("n2")], ["n1", "n1"], {GPU: 2, "pods": 1})
    assert (first.used, second.used) == ({GPU: 5, "pods": 2}, {})


def test_a_pod_on_a_node_that_is_gone_counts_nowhere() -> None:
    assert used(pod(4, nodeName="gone")) == {"n1": 0, "n2": 0}
