"""Measured expert loads in a ConfigMap: used when they are named, and by themselves no reason to replace pods."""

import copy
import json
from typing import Any

from simulated import Cluster, manifest

from moe_operator.webhook.review import review
from moe_plan.loads import LOADS_VERSION

LAYERS, EXPERTS = 48, 128


def named(name: str) -> dict[str, Any]:
    return {"ep": 4, "expertLoadsFrom": {"configMapKeyRef": {"name": name, "key": "loads.json"}}}


def loads(busiest: int, model: str = "qwen3-30b-a3b") -> dict[str, Any]:
    """A trace in which one expert has as many tokens as all others, and its neighbour many."""
    counts = [100 + expert for expert in range(EXPERTS)]
    counts[busiest], counts[busiest + 1] = 100 * EXPERTS, 1000
    layers = {str(layer): counts for layer in range(LAYERS)}
    since = f"2026-11-21T{busiest:02}:00:00Z"
    return {"version": LOADS_VERSION, "model": model, "since": since, "tokens": 12_700, "layers": layers}


def serving(**spec: Any) -> Cluster:
    cluster = Cluster(manifest(parallelism=named("monday"), **spec))
    cluster.expert_loads = loads(3)
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    return cluster


def pods(cluster: Cluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in cluster.pods()}


def plan_hash(cluster: Cluster) -> str:
    return cluster.deployment["status"]["plan"]["hash"]


def maps(cluster: Cluster) -> list[dict[str, Any]]:
    """The expert maps of the plans that the cluster holds."""
    held = (obj.get("data") or {} for obj in cluster.objects.values() if obj["kind"] == "ConfigMap")
    return [json.loads(data["plan.json"])["experts"]["exceptions"] for data in held if "plan.json" in data]


def test_pods_are_made_with_a_plan_that_deals_experts_by_the_loads() -> None:
    (experts,) = maps(serving())
    assert len(experts) == LAYERS


def test_loads_that_change_under_their_name_replace_no_pod_and_that_is_said() -> None:
    cluster = serving()
    before, plan = pods(cluster), plan_hash(cluster)
    assert "loads have changed" not in cluster.condition("ParallelismValid")["message"]
    cluster.expert_loads = loads(9)
    cluster.settle()
    assert pods(cluster) == before
    assert plan_hash(cluster) == plan
    said = cluster.condition("ParallelismValid")["message"]
    assert (
        "the loads have changed, and the replicas keep the map of experts made from those since 2026-11-21T03" in said
    )
    assert "refer to the new ones by another name or key to roll them out" in said
    assert len(maps(cluster)) == 1


def test_a_replica_that_restarts_or_is_added_after_such_a_change_has_the_others_map() -> None:
    cluster = serving()
    plan = plan_hash(cluster)
    cluster.expert_loads = loads(9)
    cluster.fail("m-0-0")
    cluster.edit(replicas=2)
    cluster.settle()
    assert cluster.serving() == {0, 1}
    assert {cluster.record(index)["plan"] for index in (0, 1)} == {plan}


def test_loads_of_another_name_are_rolled_out() -> None:
    cluster = serving()
    before, plan = pods(cluster), plan_hash(cluster)
    cluster.expert_loads = loads(9)
    cluster.edit(parallelism=named("tuesday"))
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"
    assert not pods(cluster) & before
    assert plan_hash(cluster) != plan
    assert "loads have changed" not in cluster.condition("ParallelismValid")["message"]


def test_another_name_of_the_same_loads_replaces_no_pod() -> None:
    cluster = serving()
    before = pods(cluster)
    cluster.edit(parallelism=named("tuesday"))
    cluster.settle()
    assert pods(cluster) == before


def test_what_else_replaces_pods_takes_the_newest_loads_along() -> None:
    cluster = serving()
    (before,) = maps(cluster)
    cluster.expert_loads = loads(9)
    cluster.edit(serving={"maxModelLength": 1024})
    cluster.settle()
    (after,) = maps(cluster)
    assert after != before


def test_an_operator_that_begins_anew_keeps_the_map_too() -> None:
    cluster = serving()
    before = pods(cluster)
    cluster.expert_loads = loads(9)
    del cluster.deployment["status"]
    cluster.settle()
    assert pods(cluster) == before


def test_loads_that_are_not_there_are_waited_for() -> None:
    cluster = Cluster(manifest(parallelism=named("monday")))
    cluster.settle()
    valid = cluster.condition("ParallelismValid")
    assert (valid["status"], valid["reason"]) == ("Unknown", "ExpertLoadsMissing")
    assert "ConfigMap monday has no key loads.json that holds a JSON object; create it" in valid["message"]
    cluster.expert_loads = loads(3)
    cluster.settle()
    assert cluster.condition("Ready")["status"] == "True"


def test_loads_of_another_model_stop_nothing_that_runs_and_start_nothing() -> None:
    cluster = serving()
    cluster.expert_loads = loads(3, model="gpt-oss-120b")
    cluster.settle()
    assert cluster.serving() == {0}
    stalled = cluster.condition("Stalled")
    assert stalled["reason"] == "ExpertLoadsOfAnotherModel"
    assert "the loads are of the model gpt-oss-120b, and this is qwen3-30b-a3b" in stalled["message"]


def test_the_webhook_proves_the_rest_and_says_that_the_operator_reads_the_loads() -> None:
    def answer(deployment: dict[str, Any]) -> Any:
        return review({"request": {"uid": "1", "operation": "CREATE", "object": deployment}})["response"]

    given = manifest(parallelism=named("monday"))
    said = answer(given)
    assert said["allowed"]
    assert said["warnings"][-1] == (
        "spec.parallelism.expertLoadsFrom: read by the operator from ConfigMap monday; see condition ParallelismValid of m"
    )
    wrong = copy.deepcopy(given)
    wrong["spec"]["parallelism"]["ep"] = 3
    assert not answer(wrong)["allowed"]
