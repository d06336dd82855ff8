"""A deployment comes up and serves, as its owner sees it, in a simulated cluster."""

import json
from typing import Any

import pytest
from simulated import Cluster, every_write, label, manifest, pinned, settled

from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.lifecycle import Outcome
from moe_operator.reconcile.model import Endpoint
from moe_operator.reconcile.record import Record
from moe_operator.reconcile.replicas import Replica
from moe_operator.reconcile.summary import replica_statuses


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
    cluster = settled(replicas=2)
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


def test_a_refusal_that_is_over_is_not_told_of_pods_that_start() -> None:
    cluster = Cluster(manifest())
    cluster.silent = {0}
    for write in every_write(cluster.decide()):
        if write.object["kind"] != "Pod":
            cluster.write(write)
    cluster.step(refused="pods m-0-1 is forbidden: exceeded quota: gpus")
    assert cluster.condition("Ready")["reason"] == "QuotaExceeded"
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "Starting"


def test_names_at_the_length_limit() -> None:
    cluster = Cluster(manifest("m" * 63, replicas=2))
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    assert len(cluster.names("Pod")) == 4
    assert all(len(name) <= 63 for _, name in cluster.objects)


def test_measured_figures_are_written_only_when_they_change_much() -> None:
    cluster = settled()
    cluster.endpoints[0] = Endpoint(answered=True, ttft=0.5, tpot=0.02, tokens_per_second=1000)
    cluster.settle()
    assert cluster.deployment["status"]["measured"] == {"ttft": "500 ms", "tpot": "20 ms", "tokensPerSecond": 1000}
    cluster.endpoints[0] = Endpoint(answered=True, ttft=0.51, tpot=0.0205, tokens_per_second=1050)
    assert decide(cluster.view()).status is None
    cluster.endpoints[0] = Endpoint(answered=True, ttft=0.51, tpot=0.0205, tokens_per_second=2000)
    cluster.settle()
    assert cluster.deployment["status"]["measured"]["tokensPerSecond"] == 2000


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    cluster = settled()
    since = cluster.condition("Available")["lastTransitionTime"]
    cluster.now = cluster.now.replace(hour=15)
    cluster.edit(replicas=2)
    cluster.settle()
    assert cluster.condition("Available")["lastTransitionTime"] == since
    assert cluster.condition("Available")["observedGeneration"] == 2
    assert cluster.condition("Ready")["lastTransitionTime"] > since


def test_an_operator_that_starts_anew_finds_nothing_to_do() -> None:
    cluster = settled(replicas=2)
    again = Cluster(cluster.deployment)
    again.objects, again.nodes, again.now = cluster.objects, cluster.nodes, cluster.now.replace(hour=20)
    assert decide(again.view()).stages == ()


def test_other_deployments_pods_are_not_placed_over() -> None:
    cluster = settled(nodes=4)
    other = Cluster(manifest("other"), nodes=4)
    other.objects |= {("Pod", name): obj for (kind, name), obj in cluster.objects.items() if kind == "Pod"}
    other.step()
    mine = {pinned(pod) for pod in other.pods() if label(pod, "deployment") == "other"}
    theirs = {pinned(pod) for pod in cluster.pods()}
    assert len(mine) == 2
    assert mine.isdisjoint(theirs)
