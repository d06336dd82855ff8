"""Where a pod's weights come from: none, a claim, the node, a hub."""

from typing import Any

import pytest
from rendered import deployment, plan_of, pods_of, runtime, violations_of


def model_volume(source: str) -> Any:
    pod = pods_of(deployment(model={"architecture": "mixtral-8x7b", "source": source}))[0]
    volume = next((dict(v) for v in pod["spec"]["volumes"] if v["name"] == "model"), None)
    arguments = runtime(pod)["args"]
    checkpoint = arguments[arguments.index("--checkpoint") + 1] if "--checkpoint" in arguments else None
    return volume and {key: value for key, value in volume.items() if key != "name"}, checkpoint, pod["spec"]


def test_random_weights_need_no_volume() -> None:
    volume, checkpoint, spec = model_volume("random")
    assert (volume, checkpoint, spec.get("initContainers")) == (None, None, None)


def test_a_claim_is_mounted_read_only_and_the_path_in_it_is_the_checkpoint() -> None:
    volume, checkpoint, spec = model_volume("pvc://models/a/b")
    assert volume == {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}
    assert checkpoint == "/models/a/b"
    assert "initContainers" not in spec


def test_a_directory_of_the_nodes_is_mounted_as_it_is() -> None:
    volume, checkpoint, _ = model_volume("file:///srv/models/x")
    assert volume == {"hostPath": {"path": "/srv/models/x", "type": "Directory"}}
    assert checkpoint == "/models"


def test_a_hub_model_is_fetched_before_the_start_into_a_path_of_its_own() -> None:
    volume, checkpoint, spec = model_volume("hf://mistralai/Mixtral-8x7B-v0.1")
    assert volume == {"emptyDir": {}}
    assert checkpoint == "/models/mistralai/Mixtral-8x7B-v0.1/main"
    (fetch,) = spec["initContainers"]
    assert fetch["args"] == ["fetch", "--plan", "/etc/moe/plan.json", "--slot", "0", "--into", checkpoint]
    assert fetch["env"] == spec["containers"][0]["env"]


def test_a_hub_cache_on_the_nodes_is_used_where_it_is_asked_for_and_only_there() -> None:
    cache = {"name": "model", "hostPath": {"path": "/var/cache/models", "type": "DirectoryOrCreate"}}
    source = {"architecture": "mixtral-8x7b", "source": "hf://mistralai/Mixtral-8x7B-v0.1"}
    for pod in pods_of(deployment(model=source, runtime={"podTemplate": {"spec": {"volumes": [cache]}}})):
        assert cache in pod["spec"]["volumes"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "pvc://My_Claim/x",
            "spec.model.source: must begin with the name of a PersistentVolumeClaim, which 'My_Claim' is not",
        ),
        ("pvc://models/../x", "spec.model.source: must not climb with .."),
        ("pvc:///", "spec.model.source: must name a PersistentVolumeClaim: pvc://CLAIM/PATH"),
        ("file://srv/x", "spec.model.source: must name a directory on the nodes from the root: file:///PATH"),
        ("file:///", "spec.model.source: must name a directory below the nodes' root: file:///PATH"),
    ],
)
def test_a_source_of_which_no_volume_can_be_made_is_refused(source: str, message: str) -> None:
    assert violations_of(deployment(model={"architecture": "mixtral-8x7b", "source": source})) == [message]


def test_the_keys_of_the_source_reach_the_fetching_container_alone() -> None:
    for pod in pods_of(deployment(model={"architecture": "mixtral-8x7b", "sourceSecretRef": {"name": "hub"}})):
        (fetch,) = pod["spec"]["initContainers"]
        assert fetch["envFrom"] == [{"secretRef": {"name": "hub"}}]
        assert all("envFrom" not in container for container in pod["spec"]["containers"])


def test_another_secret_of_the_source_makes_other_pods() -> None:
    def planned(**model: Any) -> str:
        return plan_of(deployment(model={"architecture": "mixtral-8x7b", **model})).hash

    assert len({planned(), planned(sourceSecretRef={"name": "hub"}), planned(sourceSecretRef={"name": "other"})}) == 3


@pytest.mark.parametrize("source", ["random", "pvc://models/mixtral", "file:///models"])
def test_a_secret_for_a_source_that_is_not_fetched_is_refused(source: str) -> None:
    model = {"architecture": "mixtral-8x7b", "source": source, "sourceSecretRef": {"name": "hub"}}
    where = "spec.model.sourceSecretRef"
    assert violations_of(deployment(model=model)) == [
        f"{where}: nothing is fetched from {source}: only hf:// and s3:// need a Secret; remove it"
    ]
