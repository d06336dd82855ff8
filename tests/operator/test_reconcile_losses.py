"""What is lost on the way, a pod, a node, a frontend, an image: what is made again, what is waited for and what is told."""

import pytest
from simulated import Cluster, gpu_node, label, manifest, pinned, settled

from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.model import Endpoint


def test_a_failed_pod_restarts_the_whole_group_after_the_backoff() -> None:
    cluster = settled()
    before = {pod["metadata"]["uid"] for pod in cluster.pods()}
    cluster.fail("m-0-1", code=3, said="first\nValueError: no such layer\n")
    cluster.step()
    assert cluster.replica_status(0)["phase"] == "Restarting"
    assert all(pod["metadata"]["deletionTimestamp"] for pod in cluster.pods())
    assert cluster.step().stages == (), "nothing is deleted twice"
    cluster.kubelets()
    assert cluster.pods() == []
    decision = cluster.step()
    assert decision.stages == ()
    assert decision.wake_after_s == pytest.approx(10, abs=1)
    cluster.settle()
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in cluster.pods())
    status = cluster.replica_status(0)
    assert (status["phase"], status["restarts"]) == ("Ready", 1)
    assert status["lastFailure"].endswith("container runtime exited with 3: first | ValueError: no such layer")
    assert [(event.type, event.reason) for event in cluster.events] == [
        ("Warning", "ContainerExited"),
        ("Normal", "Serving"),
    ]


def test_the_backoff_doubles_and_restarts_end_in_stalled_with_the_cause() -> None:
    cluster = settled(failure={"backoff": "10s", "maxRestarts": 2})
    waits = []
    for _ in range(2):
        cluster.fail("m-0-0", reason="OOMKilled", code=137)
        waits.append(cluster.step().wake_after_s)
        cluster.settle()
    cluster.fail("m-0-0", reason="OOMKilled", code=137)
    cluster.settle()
    assert waits == [10, 20]
    stalled = cluster.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "OOMKilled")
    assert "container runtime ran out of memory (OOMKilled); raise runtime.resources" in stalled["message"]
    assert "; not restarted after 2 restarts; change the spec" in stalled["message"]
    assert cluster.names("Pod") == ["m-0-0"], "the pod that ended keeps its log, the others their GPUs no more"
    assert cluster.condition("Reconciling")["status"] == "False"


def test_a_stalled_replica_is_tried_again_with_more_restarts_or_another_spec() -> None:
    for change in ({"failure": {"maxRestarts": 5}}, {"runtime": {"image": "other:1"}}):
        cluster = settled(failure={"backoff": "10s", "maxRestarts": 0})
        cluster.fail("m-0-0")
        cluster.settle()
        assert cluster.condition("Stalled")["status"] == "True"
        assert "; failure.maxRestarts is 0; change the spec" in cluster.condition("Stalled")["message"]
        cluster.edit(**change)
        cluster.settle()
        assert cluster.condition("Ready")["status"] == "True"


def test_a_replica_that_served_for_long_starts_again_from_no_restarts() -> None:
    cluster = settled(failure={"backoff": "10s", "maxRestarts": 1})
    for _ in range(3):
        cluster.fail("m-0-0")
        cluster.settle()
        cluster.now = cluster.now.replace(hour=cluster.now.hour + 1)
    assert cluster.condition("Ready")["status"] == "True"
    assert cluster.replica_status(0)["restarts"] == 1


def test_a_lost_node_is_replaced_and_the_other_slot_stays() -> None:
    cluster = settled()
    kept, lost = (pinned(pod) for pod in cluster.pods())
    cluster.lose(lost)
    cluster.settle()
    assert pinned(cluster.objects["Pod", "m-0-0"]) == kept
    assert pinned(cluster.objects["Pod", "m-0-1"]) not in (kept, lost)
    assert cluster.replica_status(0)["lastFailure"] == f"slot 1: node {lost} is gone"
    assert cluster.condition("Ready")["status"] == "True"


def test_a_node_that_is_not_ready_for_a_moment_costs_nothing() -> None:
    cluster = settled()
    node = pinned(cluster.pods()[1])
    cluster.unready(node)
    decision = decide(cluster.view())
    assert decision.stages == ()
    assert decision.wake_after_s == pytest.approx(30)
    cluster.settle()
    cluster.now = cluster.now.replace(minute=5)
    cluster.settle()
    assert cluster.record(0)["attempt"] == 2
    assert node not in cluster.record(0)["nodes"]


def degrading(nodes: int = 4) -> Cluster:
    cluster = settled(nodes=nodes, failure={"policy": "degrade", "backoff": "10s", "maxRestarts": 2})
    cluster.endpoints[0] = Endpoint(answered=True)
    return cluster


def test_with_policy_degrade_a_lost_worker_is_replaced_alone_while_the_rest_serves() -> None:
    cluster = degrading()
    frontend, worker = cluster.pods()
    cluster.fail("m-0-1")
    cluster.step()
    assert cluster.condition("Ready") | {"lastTransitionTime": "", "message": ""} == {
        "type": "Ready", "status": "True", "reason": "Degraded", "observedGeneration": 1, "lastTransitionTime": "",
        "message": "",
    }  # fmt: skip
    assert cluster.condition("Ready")["message"].startswith("replica 0 goes on without slot 1 on ")
    cluster.settle()
    assert cluster.objects["Pod", "m-0-0"] == frontend
    assert cluster.objects["Pod", "m-0-1"]["metadata"]["uid"] != worker["metadata"]["uid"]
    assert label(cluster.objects["Pod", "m-0-1"], "attempt") == "2"
    (container,) = cluster.objects["Pod", "m-0-1"]["spec"]["containers"]
    assert {"name": "MOE_ATTEMPT", "value": "1"} in container["env"], "it joins the frontend that goes on"
    assert cluster.condition("Ready")["reason"] == "Serving"
    assert cluster.replica_status(0)["restarts"] == 1
    del cluster.objects["ConfigMap", "m-0"]
    cluster.settle()
    assert cluster.objects["Pod", "m-0-0"] == frontend
    cluster.check()


def test_with_policy_degrade_a_worker_without_a_node_is_waited_for_while_the_rest_serves() -> None:
    cluster = degrading(nodes=2)
    kept, lost = (pinned(pod) for pod in cluster.pods())
    cluster.lose(lost)
    cluster.settle()
    assert cluster.names("Pod") == ["m-0-0"]
    assert cluster.condition("Ready")["reason"] == "Degraded"
    assert "there is room for 1" in cluster.condition("Ready")["message"]
    cluster.nodes["node-9"] = gpu_node("node-9")
    cluster.settle()
    assert [pinned(pod) for pod in cluster.pods()] == [kept, "node-9"]
    assert cluster.condition("Ready")["reason"] == "Serving"


@pytest.mark.parametrize("failed", [["m-0-0"], ["m-0-0", "m-0-1"]])
def test_with_policy_degrade_the_frontends_loss_still_restarts_the_whole_group(failed: list[str]) -> None:
    cluster = degrading()
    for name in failed:
        cluster.fail(name)
    cluster.settle()
    assert {label(pod, "attempt") for pod in cluster.pods()} == {"2"}


def test_a_replica_that_cannot_be_placed_holds_nothing_and_says_what_lacks() -> None:
    cluster = Cluster(manifest(), nodes=1)
    decision = cluster.settle()
    assert cluster.names("Pod") == []
    assert [name for name in cluster.names("ConfigMap") if "plan" not in name] == []
    placed = cluster.condition("Placed")
    assert (placed["status"], placed["reason"]) == ("False", "Unplaceable")
    assert placed["message"].startswith("replica 0: needs room for 2 slots")
    assert cluster.condition("Stalled")["status"] == "False"
    assert decision.wake_after_s == 30
    cluster.nodes["node-7"] = gpu_node("node-7")
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


def test_an_event_is_told_once_however_often_one_looks() -> None:
    cluster = Cluster(manifest(replicas=2), nodes=3)
    for _ in range(5):
        cluster.settle()
    assert [event.reason for event in cluster.events] == ["PlanHolds", "Unplaceable"]
    cluster.edit(workload={"concurrency": 64})
    cluster.settle()
    assert [event.reason for event in cluster.events] == ["PlanHolds", "Unplaceable"]


def test_a_replica_whose_node_is_lost_on_a_full_cluster_gives_the_rest_back() -> None:
    cluster = settled(nodes=2)
    cluster.lose("node-1")
    cluster.settle()
    assert cluster.names("Pod") == []
    assert cluster.record(0)["nodes"] == []
    assert cluster.condition("Placed")["status"] == "False"
    cluster.nodes["node-5"] = gpu_node("node-5")
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


def test_a_deleted_pod_of_a_serving_replica_restarts_the_group() -> None:
    cluster = settled()
    del cluster.objects["Pod", "m-0-1"]
    cluster.settle()
    assert cluster.record(0)["attempt"] == 2
    assert cluster.replica_status(0)["lastFailure"] == "slot 1: its pod was deleted"


def test_a_replica_whose_pod_is_being_evicted_is_not_ready_though_its_endpoint_still_answers() -> None:
    cluster = settled()
    cluster.endpoints[0] = Endpoint(answered=True)
    cluster.delete(("Pod", "m-0-1"))
    cluster.step()
    assert cluster.condition("Available")["status"] == "False"
    assert cluster.replica_status(0)["phase"] == "Restarting"


def test_a_pod_that_vanishes_while_the_group_starts_is_made_again() -> None:
    cluster = Cluster(manifest())
    cluster.silent = {0}
    cluster.settle()
    kept = cluster.objects["Pod", "m-0-0"]
    del cluster.objects["Pod", "m-0-1"]
    cluster.silent = set()
    cluster.settle()
    assert cluster.objects["Pod", "m-0-0"] == kept
    assert cluster.record(0)["attempt"] == 1
    assert cluster.condition("Ready")["status"] == "True"


def test_an_image_that_cannot_be_pulled_stalls_at_once_and_comes_back_by_itself() -> None:
    cluster = Cluster(manifest())
    cluster.silent = {0}
    cluster.settle()
    state = cluster.objects["Pod", "m-0-0"]["status"]["containerStatuses"][0]
    for reason, message in (
        ("ErrImagePull", "manifest unknown"),
        ("ImagePullBackOff", 'Back-off pulling image "x:1": ErrImagePull: manifest unknown'),
    ):
        state["state"] = {"waiting": {"reason": reason, "message": message}}
        cluster.settle()
        stalled = cluster.condition("Stalled")
        assert (stalled["status"], stalled["reason"]) == ("True", "ImageNotFound")
        assert "container runtime does not start: manifest unknown (ErrImagePull); correct" in stalled["message"]
    assert [event.reason for event in cluster.events].count("ImageNotFound") == 1
    assert cluster.record(0)["attempt"] == 1
    state["state"] = {"running": {}}
    cluster.silent = set()
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    assert cluster.condition("Stalled")["status"] == "False"


def test_pods_that_the_scheduler_refuses_are_placed_anew() -> None:
    cluster = Cluster(manifest())
    cluster.step()
    cluster.kubelets()
    pod = cluster.objects["Pod", "m-0-1"]
    pod["spec"].pop("nodeName")
    refused = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes are available",
        "lastTransitionTime": cluster.now.isoformat(),
    }  # fmt: skip
    pod["status"] = {"phase": "Pending", "conditions": [refused]}
    cluster.endpoints[0] = Endpoint(answered=False)
    decision = cluster.step()
    assert decision.wake_after_s == pytest.approx(5)
    cluster.now = cluster.now.replace(second=10)
    assert cluster.step().wake_after_s == pytest.approx(20, abs=1)
    ready = cluster.condition("Ready")
    assert (ready["reason"], "0/4 nodes are available" in ready["message"]) == ("Unschedulable", True)
    assert cluster.condition("Stalled")["status"] == "False"
    cluster.now = cluster.now.replace(minute=1)
    cluster.step()
    assert cluster.record(0)["attempt"] == 2
    assert "0/4 nodes are available" in cluster.record(0)["lastFailure"]


def test_what_keeps_a_replica_from_starting_now_comes_before_what_ended_it_before() -> None:
    cluster = settled()
    cluster.fail("m-0-1", reason="OOMKilled", code=137)
    cluster.step()
    assert cluster.condition("Ready")["reason"] == "OOMKilled"
    cluster.silent = {0}
    cluster.settle()
    state = cluster.objects["Pod", "m-0-0"]["status"]["containerStatuses"][0]
    state["state"] = {"waiting": {"reason": "ErrImagePull", "message": "dial tcp: i/o timeout"}}
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "RegistryUnreachable"
    assert cluster.condition("Stalled")["status"] == "False"
    assert cluster.condition("Reconciling")["reason"] == "Starting"


def test_a_replica_that_served_and_falls_silent_says_why() -> None:
    cluster = settled()
    cluster.endpoints[0] = Endpoint(answered=False, said="HTTP 503: rank 7 was killed by signal 9")
    cluster.settle()
    ready = cluster.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Recovering")
    assert ready["message"] == "replica 0 served, and does not answer now: HTTP 503: rank 7 was killed by signal 9"
    assert cluster.condition("Reconciling")["status"] == "True"


def test_events_tell_of_troubles_that_may_pass_once_each() -> None:
    cluster = settled()
    cluster.events.clear()
    cluster.nodes["node-1"]["spec"]["unschedulable"] = True
    for _ in range(3):
        cluster.settle()
    cluster.endpoints[0] = Endpoint(answered=False, said="HTTP 503: rank 7 was killed by signal 9")
    for _ in range(3):
        cluster.settle()
    assert [(event.type, event.reason) for event in cluster.events] == [
        ("Warning", "NodeCordoned"),
        ("Warning", "Recovering"),
    ]
    del cluster.endpoints[0]
    cluster.nodes["node-1"]["spec"] = {}
    cluster.settle()
    assert (cluster.events[-1].type, cluster.events[-1].reason) == ("Normal", "Serving")
