"""What people and other controllers do beside the operator: deleted, paused, edited, of the same name, not valid any more."""

import pytest
from simulated import Cluster, every_write, label, manifest, settled

from moe_operator.reconcile.decide import decide


def test_a_deployment_that_is_being_deleted_is_left_to_garbage_collection() -> None:
    cluster = settled()
    cluster.deployment["metadata"]["deletionTimestamp"] = "2026-11-21T13:00:00Z"
    cluster.objects.clear()
    decision = decide(cluster.view())
    assert (decision.stages, decision.status) == ((), None)


def test_a_paused_deployment_is_left_alone_and_says_so() -> None:
    cluster = settled()
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
    cluster = settled()
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
    cluster = settled()
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
    cluster = settled()
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
    cluster = settled()
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
    cluster = settled()
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
    cluster = settled()
    (plan,) = (name for name in cluster.names("ConfigMap") if "plan" in name)
    before = cluster.objects.pop(("ConfigMap", plan))
    cluster.settle()
    assert cluster.objects["ConfigMap", plan]["data"] == before["data"]


def test_what_others_add_to_children_stays() -> None:
    cluster = settled()
    cluster.objects["Service", "m"]["metadata"]["annotations"]["theirs"] = "x"
    cluster.objects["Service", "m"]["spec"]["clusterIP"] = "10.0.0.7"
    assert decide(cluster.view()).stages == ()
