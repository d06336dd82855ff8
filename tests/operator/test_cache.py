"""The caches: the newest of what was watched, listed and answered wins, in whatever order it arrives."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_operator.cache import Cache, Key, Store, trimmed
from moe_operator.resources import resource, watched


def pod(name: str, version: int, deployment: str = "m", phase: str = "Pending") -> dict[str, Any]:
    labels = {"moe-operator.dev/deployment": deployment}
    metadata = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": phase}}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_whatever_the_order_the_newest_version_is_kept(order: tuple[int, ...]) -> None:
    store = Store()
    versions = [pod("a", 1), pod("a", 2, phase="Running"), pod("a", 3, phase="Failed")]
    for number in order:
        store.put(versions[number])
    held = store.get(Key("ns", "a"))
    assert held is not None
    assert held["status"]["phase"] == "Failed"


def test_what_is_deleted_does_not_come_back_by_a_late_event_but_by_a_new_object() -> None:
    store = Store()
    store.put(pod("a", 5))
    assert store.remove(Key("ns", "a"), 7) is not None
    assert store.put(pod("a", 6)) is None
    assert store.get(Key("ns", "a")) is None
    assert store.put(pod("a", 8)) is not None


def test_a_list_removes_what_it_lacks_but_not_what_is_newer() -> None:
    store = Store()
    for obj in (pod("gone", 3), pod("kept", 4), pod("written-since", 11)):
        store.put(obj)
    changes = store.replace([pod("kept", 4), pod("found", 9)], 10)
    assert sorted(key.name for key in store.names()) == ["found", "kept", "written-since"]
    assert len(changes) == 2


def test_an_old_list_changes_nothing() -> None:
    store = Store()
    store.put(pod("a", 20, phase="Running"))
    store.put(pod("b", 21))
    store.remove(Key("ns", "b"), 22)
    assert store.replace([pod("b", 5)], 10) == []
    assert [key.name for key in store.names()] == ["a"]


def test_heartbeats_of_a_node_are_no_change() -> None:
    def node(version: int, beat: str) -> dict[str, Any]:
        condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": beat, "lastTransitionTime": "t"}
        metadata = {"name": "n", "resourceVersion": str(version), "annotations": {"beat": beat}}
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"conditions": [condition]}}

    store = Store()
    assert store.put(node(1, "one")) is not None
    assert store.put(node(2, "two")) is None


def test_children_are_found_by_deployment_and_lost_with_their_label() -> None:
    cache = Cache(watched(frozenset()))
    cache.put(pod("a", 1))
    cache.put(pod("b", 2, deployment="other"))
    assert [child["metadata"]["name"] for child in cache.children(Key("ns", "m"))] == ["a"]
    cache.put(pod("a", 3, deployment="other"))
    assert list(cache.children(Key("ns", "m"))) == []
    assert len(list(cache.children(Key("ns", "other")))) == 2
    assert cache[resource("Pod")].get(Key("ns", "a")) is not None


def test_trimming_keeps_what_placement_and_causes_read() -> None:
    given = pod("a", 1)
    given["metadata"]["managedFields"] = [{"manager": "x"}]
    given["spec"] = {
        "nodeName": "n",
        "containers": [{"name": "c", "image": "i", "env": [], "resources": {"requests": {"cpu": "1"}}}],
        "volumes": [],
    }
    given["status"] = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "containerStatuses": [{"name": "c", "imageID": "x", "lastState": {"terminated": {"exitCode": 1}}}],
    }
    held = trimmed(given)
    assert "managedFields" not in held["metadata"]
    assert held["spec"] == {"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}
    assert held["status"]["containerStatuses"] == [{"name": "c", "lastState": {"terminated": {"exitCode": 1}}}]
    assert held["status"]["podIP"] == "10.0.0.1"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 20), st.booleans()), max_size=20), st.randoms())
def test_any_order_of_the_same_events_ends_the_same(events: list[tuple[str, int, bool]], random: Any) -> None:
    unique = {(name, version): deleted for name, version, deleted in events}

    def end(order: list[tuple[str, int]]) -> dict[Key, str]:
        store = Store()
        for name, version in order:
            if unique[name, version]:
                store.remove(Key("ns", name), version)
            else:
                store.put(pod(name, version))
        return {key: str(store.get(key)) for key in store.names()}

    shuffled = list(unique)
    random.shuffle(shuffled)
    assert end(shuffled) == end(sorted(unique))
