"""The life of a deployment in a simulated cluster, as its owner sees it."""

import json
from typing import Any

import pytest
from simulated import Cluster, every_write, gpu_node, label, manifest, pinned

from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.lifecycle import Outcome
from moe_operator.reconcile.model import Endpoint
from moe_operator.reconcile.record import Record
from moe_operator.reconcile.replicas import Replica
from moe_operator.reconcile.summary import replica_statuses


def running(nodes: int = 4, **spec: Any) -> Cluster:
    cluster = Cluster(manifest(**spec), nodes=nodes)
    cluster.settle()
    cluster.log.clear()
    cluster.events.clear()
    return cluster


def test_a_deployment_becomes_a_serving_replica() -> None:
    cluster = Cluster(manifest())
    cluster.settle()
    assert cluster.names("Pod") == ["m-0-0", "m-0-1"]
    assert cluster.condition("Ready")["reason"] == "Serving"
    assert cluster.deployment["status"]["ready"] == "1/1"
    assert cluster.replica_status(0)["phase"] == "Ready"
    assert cluster.replica_status(0)["nodes"] == [pinned(pod) for pod in cluster.pods()]
    cluster.check()


def test_nothing_is_written_when_all_is_as_wanted() -> None:
    cluster = running(replicas=2)
    decision = decide(cluster.view())
    assert (decision.stages, decision.status, decision.events) == ((), None, ())


def test_the_record_is_written_before_the_pods() -> None:
    order = [write.object["metadata"]["name"] for write in every_write(decide(Cluster(manifest()).view()))]
    assert order.index("m-0") < order.index("m-0-0")


def test_each_pod_is_written_once() -> None:
    cluster = Cluster(manifest(replicas=2))
    cluster.settle()
    assert sum("Pod m-" in entry for entry in cluster.log) == 4


def test_ready_waits_for_the_endpoint_not_for_the_pods() -> None:
    cluster = Cluster(manifest())
    cluster.silent = {0}
    cluster.settle()
    assert cluster.replica_status(0) | {"nodes": []} == {
        "index": 0, "phase": "Starting", "hash": cluster.record(0)["plan"], "readySlots": 2, "slots": 2, "nodes": [],
        "placementScore": "1.00", "placementMisses": [], "restarts": 0,
    }  # fmt: skip
    assert cluster.condition("Ready")["status"] == "False"
    assert cluster.condition("Reconciling")["message"] == "0 of 1 replica answer; the others start"


def test_many_replicas_are_made_a_few_at_a_time() -> None:
    cluster = Cluster(manifest(replicas=10), nodes=20)
    first = cluster.step()
    assert first.wake_after_s == 0
    assert len(cluster.indices()) == 8
    cluster.settle()
    assert cluster.serving() == set(range(10))
    assert [event.reason for event in cluster.events].count("NodesFound") == 1


def test_the_status_of_64_large_replicas_stays_small() -> None:
    nodes = tuple(f"{slot:04}-" + "x" * 248 for slot in range(128))
    misses = tuple(f"{number} " + "x" * 5000 for number in range(20))
    record = Record("h" * 64, 3, nodes, 0.5, misses, restarts=2, last_failure="x" * 20_000)
    shown = replica_statuses([Outcome(Replica(index, record)) for index in range(64)])
    text = json.dumps([status.model_dump(mode="json", by_alias=True) for status in shown])
    assert len(text) < 1_000_000, "etcd takes 1.5 MiB an object"
    assert shown[0].nodes == nodes
    assert shown[63].nodes == (), "the record has them"


def test_a_gang_scheduler_that_is_not_there_is_told_and_nothing_is_made() -> None:
    cluster = Cluster(manifest(scheduling={"gang": "volcano"}))
    decision = cluster.settle()
    assert cluster.names("Pod") == []
    assert cluster.condition("ParallelismValid")["status"] == "True"
    assert cluster.condition("Placed")["reason"] == cluster.condition("Stalled")["reason"] == "GangNotServed"
    assert decision.wake_after_s == 30
    cluster.served = frozenset({"scheduling.volcano.sh"})
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    group = cluster.names("PodGroup")
    assert len(group) == 1
    cluster.edit(runtime={"image": "other:1"})
    cluster.settle()
    assert len(cluster.names("PodGroup")) == 1
    assert cluster.names("PodGroup") != group


def test_what_no_pod_can_be_made_from_is_refused_like_an_invalid_layout() -> None:
    cluster = Cluster(manifest(runtime={"podTemplate": {"spec": {"restartPolicy": "Always"}}}))
    cluster.settle()
    assert cluster.objects == {}
    assert "spec.runtime.podTemplate.spec.restartPolicy" in cluster.condition("ParallelismValid")["message"]


@pytest.mark.parametrize(
    "runtime",
    [
        {"resources": {"requests": {"cpu": "lots"}}},
        {"podTemplate": {"spec": {"containers": [{"name": "side", "resources": {"requests": {"memory": [1]}}}]}}},
        {"podTemplate": {"spec": {"overhead": 3}}},
    ],
)
def test_resources_that_are_none_are_refused(runtime: dict[str, Any]) -> None:
    cluster = Cluster(manifest(runtime=runtime))
    cluster.settle()
    assert cluster.objects == {}
    assert cluster.condition("ParallelismValid")["reason"] == "InvalidResources"


def test_what_the_api_server_refuses_is_told_and_half_a_replica_given_back() -> None:
    words = "pods m-0-1 is forbidden: exceeded quota: gpus"
    cluster = Cluster(manifest(failure={"backoff": "10s", "maxRestarts": 1}))
    waits = []
    for _ in range(4):
        for write in every_write(cluster.decide()):
            if write.object["metadata"]["name"] != "m-0-1":
                cluster.write(write)
        waits.append(cluster.step(refused=words).wake_after_s)
        cluster.kubelets()
        assert cluster.pods() == []
        cluster.now = cluster.now.replace(hour=cluster.now.hour + 1)
        assert cluster.condition("Stalled")["reason"] == "QuotaExceeded"
        assert words in cluster.condition("Stalled")["message"]
    assert waits == [10, 20, 40, 80], "the waits grow"
    assert cluster.replica_status(0)["restarts"] == 0, "nothing has failed, so no restart is spent"
    assert len({event.message for event in cluster.events}) == len(cluster.events), "each is told once"
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True", "room in the quota is found without a person's help"


def test_names_at_the_length_limit() -> None:
    cluster = Cluster(manifest("m" * 63, replicas=2))
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    assert len(cluster.names("Pod")) == 4
    assert all(len(name) <= 63 for _, name in cluster.objects)


def test_a_changed_count_touches_no_running_pod() -> None:
    cluster = running(nodes=8, replicas=2)
    before = {name: cluster.objects["Pod", name] for name in cluster.names("Pod")}
    cluster.edit(replicas=4)
    cluster.settle()
    assert {name: cluster.objects["Pod", name] for name in before} == before
    assert cluster.names("Pod") == [f"m-{i}-{slot}" for i in range(4) for slot in range(2)]
    cluster.edit(replicas=1)
    cluster.settle()
    assert cluster.names("Pod") == ["m-0-0", "m-0-1"]
    assert {name: cluster.objects["Pod", name] for name in cluster.names("Pod")} == {
        name: before[name] for name in ("m-0-0", "m-0-1")
    }
    assert [name for name in cluster.names("ConfigMap") if "plan" not in name] == ["m-0"]


def test_scaled_to_zero_is_ready_and_holds_nothing() -> None:
    cluster = running()
    cluster.edit(replicas=0)
    cluster.settle()
    assert cluster.names("Pod") == []
    assert cluster.condition("Ready")["reason"] == "ScaledToZero"


def test_a_changed_spec_is_rolled_out_one_replica_at_a_time() -> None:
    cluster = running(nodes=6, replicas=3)
    old = cluster.record(0)["plan"]
    cluster.edit(runtime={"image": "other:1"})
    least = 3
    for _ in range(60):
        cluster.step()
        least = min(least, len(cluster.serving()))
        cluster.check()
        cluster.kubelets()
        cluster.check()
    assert least == 2
    assert {cluster.record(i)["plan"] for i in range(3)} != {old}
    assert cluster.condition("Ready")["status"] == "True"
    assert [event.reason for event in cluster.events] == ["RollingOut", "Serving"]
    assert len([name for name in cluster.names("ConfigMap") if "plan" in name]) == 1


def test_a_surge_is_used_where_there_is_room() -> None:
    cluster = running(nodes=6, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 0})
    cluster.edit(runtime={"image": "other:1"})
    seen = set()
    for _ in range(60):
        cluster.step()
        cluster.kubelets()
        seen |= cluster.indices()
        assert len(cluster.serving()) >= 2
    assert seen == {0, 1, 2}
    assert cluster.indices() == {0, 1}
    assert cluster.condition("Ready")["status"] == "True"


def test_a_full_cluster_rolls_out_without_its_surge_and_says_so() -> None:
    cluster = running(nodes=4, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 1})
    cluster.edit(runtime={"image": "other:1"})
    cluster.step()
    said = cluster.condition("Reconciling")["message"]
    assert said.startswith("1 of 2 replicas are on today's plan; no room for more than 2 at once, so maxUnavailable")
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    assert len({cluster.record(i)["plan"] for i in (0, 1)}) == 1


def test_a_rollout_that_may_take_nothing_down_and_has_no_room_is_stalled() -> None:
    cluster = running(nodes=4, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 0})
    cluster.edit(runtime={"image": "other:1"})
    cluster.settle()
    assert cluster.condition("Stalled")["reason"] == "NoRoomForSurge"
    assert len(cluster.serving()) == 2
    cluster.nodes |= {"node-8": gpu_node("node-8"), "node-9": gpu_node("node-9")}
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


def test_a_surge_replica_stands_in_for_one_that_lost_its_node_on_a_full_cluster() -> None:
    cluster = running(nodes=6, replicas=2, rollout={"maxSurge": 1, "maxUnavailable": 0})
    cluster.edit(runtime={"image": "other:1"})
    cluster.step()
    cluster.kubelets()
    assert cluster.serving() == {0, 1, 2}
    cluster.lose(cluster.record(0)["nodes"][0])
    cluster.settle()
    assert cluster.serving() == {1, 2}
    assert cluster.condition("Stalled")["reason"] == "NoRoomForSurge"
    assert "stands in for one without room" in cluster.condition("Stalled")["message"]
    cluster.nodes["node-9"] = gpu_node("node-9")
    cluster.settle()
    assert cluster.serving() == {0, 1}
    assert cluster.condition("Ready")["status"] == "True"


def test_a_bad_image_stops_the_rollout_at_what_may_be_down() -> None:
    cluster = running(nodes=6, replicas=3)
    cluster.edit(runtime={"image": "other:1"})
    cluster.silent = {2}
    cluster.settle()
    assert cluster.serving() == {0, 1}
    cluster.edit(runtime={"image": "other:2"})
    cluster.silent = set()
    cluster.settle()
    assert cluster.serving() == {0, 1, 2}


def test_replicas_below_the_partition_keep_the_old_spec_also_when_restarted() -> None:
    cluster = running(nodes=6, replicas=2, rollout={"partition": 1})
    old = cluster.objects["Pod", "m-0-0"]["spec"]
    cluster.edit(runtime={"image": "other:1"})
    cluster.settle()
    assert cluster.record(0)["plan"] != cluster.record(1)["plan"]
    assert cluster.condition("Ready")["status"] == "True"
    cluster.fail("m-0-1")
    cluster.settle()
    assert cluster.record(0)["attempt"] == 2
    new = cluster.objects["Pod", "m-0-0"]["spec"]
    assert new["containers"][0]["image"] == old["containers"][0]["image"] != "other:1"


def test_a_failed_pod_restarts_the_whole_group_after_the_backoff() -> None:
    cluster = running()
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
    cluster = running(failure={"backoff": "10s", "maxRestarts": 2})
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
        cluster = running(failure={"backoff": "10s", "maxRestarts": 0})
        cluster.fail("m-0-0")
        cluster.settle()
        assert cluster.condition("Stalled")["status"] == "True"
        assert "; failure.maxRestarts is 0; change the spec" in cluster.condition("Stalled")["message"]
        cluster.edit(**change)
        cluster.settle()
        assert cluster.condition("Ready")["status"] == "True"


def test_a_replica_that_served_for_long_starts_again_from_no_restarts() -> None:
    cluster = running(failure={"backoff": "10s", "maxRestarts": 1})
    for _ in range(3):
        cluster.fail("m-0-0")
        cluster.settle()
        cluster.now = cluster.now.replace(hour=cluster.now.hour + 1)
    assert cluster.condition("Ready")["status"] == "True"
    assert cluster.replica_status(0)["restarts"] == 1


def test_a_lost_node_is_replaced_and_the_other_slot_stays() -> None:
    cluster = running()
    kept, lost = (pinned(pod) for pod in cluster.pods())
    cluster.lose(lost)
    cluster.settle()
    assert pinned(cluster.objects["Pod", "m-0-0"]) == kept
    assert pinned(cluster.objects["Pod", "m-0-1"]) not in (kept, lost)
    assert cluster.replica_status(0)["lastFailure"] == f"slot 1: node {lost} is gone"
    assert cluster.condition("Ready")["status"] == "True"


def test_a_node_that_is_not_ready_for_a_moment_costs_nothing() -> None:
    cluster = running()
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
    cluster = running(nodes=nodes, failure={"policy": "degrade", "backoff": "10s", "maxRestarts": 2})
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
    cluster = running(nodes=2)
    cluster.lose("node-1")
    cluster.settle()
    assert cluster.names("Pod") == []
    assert cluster.record(0)["nodes"] == []
    assert cluster.condition("Placed")["status"] == "False"
    cluster.nodes["node-5"] = gpu_node("node-5")
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


def test_a_deleted_pod_of_a_serving_replica_restarts_the_group() -> None:
    cluster = running()
    del cluster.objects["Pod", "m-0-1"]
    cluster.settle()
    assert cluster.record(0)["attempt"] == 2
    assert cluster.replica_status(0)["lastFailure"] == "slot 1: its pod was deleted"


def test_a_replica_whose_pod_is_being_evicted_is_not_ready_though_its_endpoint_still_answers() -> None:
    cluster = running()
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


def test_a_deployment_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    cluster = running()
    cluster.deployment["metadata"]["deletionTimestamp"] = "2026-11-21T13:00:00Z"
    cluster.objects.clear()
    decision = decide(cluster.view())
    assert (decision.stages, decision.status) == ((), None)


def test_a_paused_deployment_is_left_alone_and_says_so() -> None:
    cluster = running()
    cluster.deployment["metadata"]["annotations"] = {"moe-operator.dev/paused": "true"}
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    cluster.edit(replicas=2)
    cluster.settle()
    assert cluster.indices() == {0}
    assert cluster.condition("Reconciling") | {"lastTransitionTime": ""} == {
        "type": "Reconciling", "status": "True", "reason": "Paused", "observedGeneration": 2, "lastTransitionTime": "",
        "message": "paused by an annotation with work left to do; remove it to go on",
    }  # fmt: skip
    del cluster.deployment["metadata"]["annotations"]
    cluster.settle()
    assert cluster.indices() == {0, 1}


def test_an_invalid_spec_leaves_what_runs_and_looks_after_it() -> None:
    cluster = running()
    cluster.edit(parallelism={"ep": 3})
    cluster.settle()
    assert cluster.condition("Available")["status"] == "True"
    assert cluster.condition("Ready")["status"] == "False"
    valid = cluster.condition("ParallelismValid")
    assert valid["status"] == "False"
    assert "spec.parallelism.ep" in valid["message"]
    assert "nearest layouts that work:" in valid["message"]
    assert [event.reason for event in cluster.events] == [valid["reason"]]
    cluster.fail("m-0-0")
    cluster.settle()
    assert cluster.serving() == {0}
    assert cluster.record(0)["attempt"] == 2


def test_an_invalid_spec_from_the_start_makes_nothing() -> None:
    cluster = Cluster(manifest(parallelism={"ep": 3}))
    cluster.settle()
    assert cluster.objects == {}
    assert cluster.condition("Stalled")["status"] == "True"


def test_a_spec_that_an_older_operator_took_and_this_one_does_not_know() -> None:
    cluster = running()
    cluster.edit(parallelism={"sequenceParallel": 2})
    cluster.settle()
    assert "spec.parallelism.sequenceParallel: unknown field" in cluster.condition("ParallelismValid")["message"]
    assert cluster.serving() == {0}


def test_a_model_in_a_config_map_that_vanishes_keeps_serving() -> None:
    config = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 512, "intermediate_size": 1024,
        "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 4, "num_local_experts": 8,
        "num_experts_per_tok": 2, "vocab_size": 32000, "max_position_embeddings": 4096,
    }  # fmt: skip
    source = {"configFrom": {"configMapKeyRef": {"name": "model", "key": "config.json"}}}
    cluster = Cluster(manifest(model=source))
    cluster.settle()
    valid = cluster.condition("ParallelismValid")
    assert (valid["status"], valid["reason"]) == ("Unknown", "ConfigMissing")
    assert "ConfigMap model has no key config.json that holds a JSON object" in valid["message"]
    cluster.config = config
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    cluster.config = None
    cluster.fail("m-0-0")
    cluster.settle()
    assert cluster.serving() == {0}
    assert cluster.condition("Stalled")["reason"] == "ConfigMissing"


@pytest.mark.parametrize(
    ("kind", "name"), [("Pod", "m-0-1"), ("ConfigMap", "m-0"), ("Service", "m"), ("Service", "m-0")]
)
def test_a_foreign_object_with_a_childs_name_is_never_touched(kind: str, name: str) -> None:
    cluster = Cluster(manifest())
    foreign = {
        "apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "team", "uid": "foreign"},
        "spec": {"containers": [], "nodeName": "node-0"}, "status": {"phase": "Running"},
    }  # fmt: skip
    cluster.objects[kind, name] = foreign
    cluster.settle()
    assert cluster.objects[kind, name] == foreign
    assert cluster.indices() == set()
    stalled = cluster.condition("Stalled")
    assert stalled["reason"] == "NameTaken"
    assert f"{kind} {name}" in stalled["message"]
    del cluster.objects[kind, name]
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


def test_what_is_left_of_an_earlier_deployment_of_the_name_is_waited_for() -> None:
    cluster = running()
    cluster.deployment = manifest() | {"metadata": manifest()["metadata"] | {"uid": "another"}}
    left = dict(cluster.objects)
    cluster.settle()
    assert cluster.objects == left
    assert cluster.condition("Reconciling")["reason"] == "WaitingForCleanup"
    cluster.objects.clear()
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"])
def test_children_edited_or_deleted_by_hand_are_restored(kind: str) -> None:
    cluster = running()
    as_made = {key: obj for key, obj in cluster.objects.items() if key[0] == kind}
    assert as_made
    for key in as_made:
        del cluster.objects[key]
    cluster.settle()
    assert {key for key in cluster.objects if key[0] == kind} == as_made.keys()
    for key in as_made:
        cluster.objects[key]["metadata"]["labels"] = {}
    cluster.settle()
    for key, obj in as_made.items():
        assert cluster.objects[key]["metadata"]["labels"] == obj["metadata"]["labels"]
    assert cluster.record(0)["attempt"] == 1


def test_a_child_that_was_labelled_as_another_replicas_is_put_right_and_not_deleted() -> None:
    cluster = Cluster(manifest())
    cluster.settle()
    cluster.objects["PodDisruptionBudget", "m-0"]["metadata"]["labels"]["moe-operator.dev/replica"] = "7"
    writes = list(every_write(cluster.decide()))
    assert [(write.verb, write.object["kind"]) for write in writes] == [("apply", "PodDisruptionBudget")]
    cluster.settle()
    assert label(cluster.objects["PodDisruptionBudget", "m-0"], "replica") == "0"


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"plan": 1, "attempt": "x", "nodes": 3}'])
def test_a_lost_or_damaged_record_is_restored_from_the_pods(text: str | None) -> None:
    cluster = running()
    before = cluster.record(0)
    pods = cluster.pods()
    if text is None:
        del cluster.objects["ConfigMap", "m-0"]
    else:
        cluster.objects["ConfigMap", "m-0"]["data"]["record.json"] = text
    cluster.settle()
    assert cluster.pods() == pods
    assert [cluster.record(0)[key] for key in ("plan", "attempt", "nodes")] == [
        before[key] for key in ("plan", "attempt", "nodes")
    ]


def test_a_plan_deleted_by_hand_comes_back() -> None:
    cluster = running()
    (plan,) = (name for name in cluster.names("ConfigMap") if "plan" in name)
    before = cluster.objects.pop(("ConfigMap", plan))
    cluster.settle()
    assert cluster.objects["ConfigMap", plan]["data"] == before["data"]


def test_what_others_add_to_children_stays() -> None:
    cluster = running()
    cluster.objects["Service", "m"]["metadata"]["annotations"]["theirs"] = "x"
    cluster.objects["Service", "m"]["spec"]["clusterIP"] = "10.0.0.7"
    assert decide(cluster.view()).stages == ()


def test_measured_figures_are_written_only_when_they_change_much() -> None:
    cluster = running()
    cluster.endpoints[0] = Endpoint(answered=True, ttft=0.5, tpot=0.02, tokens_per_second=1000)
    cluster.settle()
    assert cluster.deployment["status"]["measured"] == {"ttft": "500 ms", "tpot": "20 ms", "tokensPerSecond": 1000}
    cluster.endpoints[0] = Endpoint(answered=True, ttft=0.51, tpot=0.0205, tokens_per_second=1050)
    assert decide(cluster.view()).status is None
    cluster.endpoints[0] = Endpoint(answered=True, ttft=0.51, tpot=0.0205, tokens_per_second=2000)
    cluster.settle()
    assert cluster.deployment["status"]["measured"]["tokensPerSecond"] == 2000


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    cluster = running()
    since = cluster.condition("Available")["lastTransitionTime"]
    cluster.now = cluster.now.replace(hour=15)
    cluster.edit(replicas=2)
    cluster.settle()
    assert cluster.condition("Available")["lastTransitionTime"] == since
    assert cluster.condition("Available")["observedGeneration"] == 2
    assert cluster.condition("Ready")["lastTransitionTime"] > since


def test_an_operator_that_starts_anew_finds_nothing_to_do() -> None:
    cluster = running(replicas=2)
    again = Cluster(cluster.deployment)
    again.objects, again.nodes, again.now = cluster.objects, cluster.nodes, cluster.now.replace(hour=20)
    assert decide(again.view()).stages == ()


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


def test_other_deployments_pods_are_not_placed_over() -> None:
    cluster = running(nodes=4)
    other = Cluster(manifest("other"), nodes=4)
    other.objects |= {("Pod", name): obj for (kind, name), obj in cluster.objects.items() if kind == "Pod"}
    other.step()
    mine = {pinned(pod) for pod in other.pods() if label(pod, "deployment") == "other"}
    theirs = {pinned(pod) for pod in cluster.pods()}
    assert len(mine) == 2
    assert mine.isdisjoint(theirs)
