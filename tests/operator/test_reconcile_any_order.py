"""Whatever happens in whatever order, and wherever the operator dies, a deployment converges."""

import copy
from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated import Cluster, gpu_node, label, manifest, pinned

from moe_operator.reconcile.decide import decide

NODES = 6


class AnyOrder(RuleBasedStateMachine):
    """People, nodes, pods and crashes at random; the deployment has at most three replicas of two nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(manifest())
        self.images = 0

    @initialize(surge=st.integers(0, 1), unavailable=st.integers(0, 2), policy=st.sampled_from(["restart", "degrade"]))
    def begin(self, surge: int, unavailable: int, policy: str) -> None:
        failure = {"policy": policy, "backoff": "1s", "maxRestarts": 99}
        rollout = {"maxSurge": surge, "maxUnavailable": max(unavailable, 1 - surge), "partition": 0}
        self.cluster = Cluster(manifest(replicas=2, rollout=rollout, failure=failure), NODES)

    @rule(writes=st.integers(0, 12))
    def decide_and_die(self, writes: int) -> None:
        self._step(writes)

    @rule()
    def decide(self) -> None:
        self._step(None)

    def _step(self, writes: int | None) -> None:
        """The operator never takes down more replicas than may be."""
        spec, beyond = self.cluster.deployment["spec"], self._removed() | self._given_up()
        before = len(self.cluster.serving() - beyond)
        self.cluster.step(writes)
        least = spec["replicas"] - spec["rollout"]["maxUnavailable"]
        assert len(self.cluster.serving() - beyond) >= min(before, least)

    def _removed(self) -> set[int]:
        """Replicas that scaling down takes away."""
        desired = self.cluster.deployment["spec"]["replicas"]
        return {
            index
            for index in self.cluster.indices()
            if index >= desired
            and not (("ConfigMap", f"m-{index}") in self.cluster.objects and self.cluster.record(index)["surge"])
        }

    @rule()
    def the_cluster_works(self) -> None:
        self.cluster.kubelets()

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.cluster.pods())
    @rule(data=st.data(), how=st.sampled_from(["fail", "delete", "vanish"]))
    def a_pod_is_lost(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(self.cluster.names("Pod")))
        if how == "fail":
            self.cluster.fail(name)
        elif how == "delete":
            self.cluster.delete(("Pod", name))
        else:
            del self.cluster.objects["Pod", name]

    @precondition(lambda self: len(self.cluster.nodes) > 1)
    @rule(data=st.data())
    def a_node_is_lost(self, data: st.DataObject) -> None:
        self.cluster.lose(data.draw(st.sampled_from(sorted(self.cluster.nodes))))

    @rule(number=st.integers(0, NODES - 1))
    def a_node_comes_back(self, number: int) -> None:
        self.cluster.nodes.setdefault(f"node-{number}", gpu_node(f"node-{number}"))

    @rule(replicas=st.integers(0, 3))
    def scale(self, replicas: int) -> None:
        self.cluster.edit(replicas=replicas)

    @rule()
    def change_the_spec(self) -> None:
        self.images += 1
        self.cluster.edit(runtime={"image": f"image:{self.images}"})

    @rule(data=st.data())
    def a_child_is_deleted_by_hand(self, data: st.DataObject) -> None:
        others = sorted(key for key in self.cluster.objects if key[0] != "Pod")
        if others:
            del self.cluster.objects[data.draw(st.sampled_from(others))]

    def _given_up(self) -> set[int]:
        """Replicas given up before they served, whose pods started all the same before they were deleted."""
        return {
            index
            for index in self.cluster.indices()
            if ("ConfigMap", f"m-{index}") in self.cluster.objects
            and any(
                int(label(pod, "attempt")) < self.cluster.record(index)["attempt"] for pod in self.cluster.pods(index)
            )
            and self.cluster.record(index)["readySince"] is None
        }

    @invariant()
    def holds(self) -> None:
        self.cluster.check()

    def teardown(self) -> None:
        cluster = self.cluster
        for number in range(NODES + 2):  # room for a replica beside those of a rollout that may take none down
            cluster.nodes.setdefault(f"node-{number}", gpu_node(f"node-{number}"))
        cluster.settle(limit=200)
        wanted = cluster.deployment["spec"]["replicas"]
        assert cluster.serving() == set(range(wanted))
        assert cluster.condition("Ready")["status"] == "True"
        assert cluster.deployment["status"]["observedGeneration"] == cluster.deployment["metadata"]["generation"]
        images = {pod["spec"]["containers"][0]["image"] for pod in cluster.pods()}
        assert images <= ({f"image:{self.images}"} if self.images else images)
        assert len([name for name in cluster.names("ConfigMap") if "-plan-" in name]) <= 1
        assert {label(pod, "replica") for pod in cluster.pods()} == {str(index) for index in range(wanted)}
        settled = decide(cluster.view())
        assert (settled.stages, settled.status, settled.events) == ((), None, ())


AnyOrder.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_order = pytest.mark.slow(AnyOrder.TestCase)


def stories() -> dict[str, Cluster]:
    """Clusters in the middle of something."""
    fresh = Cluster(manifest(replicas=2), NODES)
    found = {"create": fresh}
    for name in ("scale up", "scale down", "roll", "restart", "lose a node", "scale to zero"):
        found[name] = cluster = Cluster(manifest(replicas=2), NODES)
        cluster.settle()
    found["scale up"].edit(replicas=3)
    found["scale down"].edit(replicas=1)
    found["scale to zero"].edit(replicas=0)
    found["roll"].edit(runtime={"image": "other:1"})
    found["restart"].fail("m-1-0")
    found["lose a node"].lose(pinned(found["lose a node"].pods()[0]))
    return found


@pytest.mark.parametrize("story", list(stories()))
def test_an_operator_that_dies_after_any_write_is_followed_by_one_that_ends_the_same_way(story: str) -> None:
    undisturbed = stories()[story]
    start = copy.deepcopy(undisturbed)
    undisturbed.log.clear()
    undisturbed.settle()
    for k in range(len(undisturbed.log) + 1):
        cluster = copy.deepcopy(start)
        left = k
        while left >= 0:  # k writes by the first operator, the rest by the second
            count = len(cluster.log)
            cluster.step(left)
            done = len(cluster.log) - count
            if done == left:
                break
            left -= done
            if not cluster.kubelets() and not done:
                break
        cluster.settle()
        cluster.check()
        assert shape(cluster) == shape(undisturbed), f"died after write {k}"


def shape(cluster: Cluster) -> dict[tuple[str, str], object]:
    """Which objects there are, where the pods run and which attempt they belong to."""
    return {
        (kind, name): (pinned(obj), label(obj, "attempt"), label(obj, "plan")) if kind == "Pod" else None
        for (kind, name), obj in cluster.objects.items()
    }
