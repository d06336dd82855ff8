"""A cluster in memory for the pure core: objects in, objects out, as the API server, scheduler and kubelets treat them.

It holds the promises that the core relies on (names are unique, a uid is a precondition, a pod is never patched, an
immutable ConfigMap keeps its data) and fails the test when a write breaks one.
"""

import copy
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from moe_operator.engines import Images
from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.model import Decision, Endpoint, Event, View, Write

GPU = "nvidia.com/gpu"
START = datetime(2026, 11, 21, 12, tzinfo=UTC)
PREFIX = "moe-operator.dev/"
Key = tuple[str, str]


def manifest(name: str = "m", **spec: Any) -> dict[str, Any]:
    """A deployment whose replicas are two pods of two GPUs."""
    whole: dict[str, Any] = {
        "model": {"architecture": "qwen3-30b-a3b"},
        "hardware": {"accelerator": "h200-sxm", "gpusPerNode": 2},
        "parallelism": {"ep": 4},
        "replicas": 1,
        "failure": {"backoff": "10s", "maxRestarts": 2},
        "rollout": {"maxSurge": 0, "maxUnavailable": 1, "partition": 0},
    }
    metadata = {"name": name, "namespace": "team", "uid": f"uid-of-{name}", "generation": 1}
    return {
        "apiVersion": "moe-operator.dev/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": metadata,
        "spec": whole | spec,
    }


def gpu_node(name: str, gpus: int = 2) -> dict[str, Any]:
    """A node that is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "allocatable": {GPU: str(gpus), "cpu": "128", "memory": "2Ti", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T11:00:00Z"}],
        },
    }


class Cluster:
    """One deployment and all there is around it."""

    def __init__(self, deployment: dict[str, Any], nodes: int = 4) -> None:
        self.deployment = deployment
        self.nodes = {f"node-{i}": gpu_node(f"node-{i}") for i in range(nodes)}
        self.objects: dict[Key, dict[str, Any]] = {}
        self.now = START
        self.silent: set[int] = set()
        self.endpoints: dict[int, Endpoint] = {}
        self.served: frozenset[str] = frozenset()
        self.images: Images = ()
        self.config: Mapping[str, Any] | None = None
        self.expert_loads: Mapping[str, Any] | None = None
        self.events: list[Event] = []
        self.log: list[str] = []
        self._uids = itertools.count()

    # What the core sees and does

    def view(self) -> View:
        """Everything as it is now; copies, so that nothing the core keeps changes under it."""
        everything = copy.deepcopy(list(self.objects.values()))
        return View(
            deployment=copy.deepcopy(self.deployment),
            now=self.now,
            children=tuple(obj for obj in everything if obj["kind"] != "Pod"),
            pods=tuple(obj for obj in everything if obj["kind"] == "Pod"),
            nodes=tuple(copy.deepcopy(list(self.nodes.values()))),
            config=self.config,
            expert_loads=self.expert_loads,
            endpoints={index: self.endpoint(index) for index in self.indices()},
            served=self.served,
            images=self.images,
        )

    def decide(self) -> Decision:
        """What the core would do now."""
        return decide(self.view())

    def step(self, writes: int | None = None, refused: str | None = None) -> Decision:
        """One decision carried out; with `writes`, the operator dies after so many of them."""
        decision = decide(replace(self.view(), refused=refused))
        ordered = list(itertools.chain.from_iterable(decision.stages))
        for write in ordered[:writes]:
            self.write(write)
        if writes is None or writes > len(ordered):
            if decision.status is not None:
                self.deployment["status"] = json.loads(json.dumps(decision.status))
                self.log.append("status")
            self.events += decision.events
        return decision

    def settle(self, *, limit: int = 60) -> Decision:
        """Decide and let the cluster work, the clock running as far as the core asks, until nothing changes."""
        for _ in range(limit):
            decision = self.step()
            changed = self.kubelets()
            if not changed and not decision.stages and decision.status is None:
                if decision.wake_after_s is None or decision.wake_after_s >= 30:
                    return decision
                self.now += timedelta(seconds=decision.wake_after_s)
            self.now += timedelta(milliseconds=100)
        raise AssertionError(f"did not settle: {decision}")

    def write(self, write: Write) -> None:
        """One call to the API server."""
        obj = copy.deepcopy(dict(write.object))
        self.log.append(f"{write.verb} {obj['kind']} {obj['metadata']['name']}")
        key = obj["kind"], obj["metadata"]["name"]
        if write.verb == "delete":
            self.delete(key, obj["metadata"]["uid"], obj.get("gracePeriodSeconds"))
        else:
            self._apply(key, obj)

    def _apply(self, key: Key, obj: dict[str, Any]) -> None:
        here = self.objects.get(key)
        if here is None:
            obj["metadata"] |= {"uid": f"uid-{next(self._uids)}", "creationTimestamp": self.now.isoformat()}
            self.objects[key] = obj
            return
        assert here["metadata"]["ownerReferences"][0]["uid"] == self.deployment["metadata"]["uid"], f"{key} is foreign"
        assert key[0] != "Pod", f"{key} is patched"
        if here.get("immutable"):
            assert here["data"] == obj["data"], f"{key} is immutable"
        kept = {name: here["metadata"][name] for name in ("uid", "creationTimestamp")}
        self.objects[key] = {**obj, "metadata": {**obj["metadata"], **kept}}

    # What others do

    def delete(self, key: Key, uid: str | None = None, grace: int | None = None) -> None:
        """Delete an object: a pod ends gracefully, unless forced."""
        here = self.objects.get(key)
        if here is None or (uid is not None and here["metadata"]["uid"] != uid):
            return
        if key[0] != "Pod" or grace == 0:
            del self.objects[key]
        else:
            here["metadata"] |= {"deletionTimestamp": self.now.isoformat(), "deletionGracePeriodSeconds": 30}

    def kubelets(self) -> bool:
        """Bind what fits, start what is bound, end what is terminating. Whether anything changed."""
        changed = False
        for key, pod in list(self.objects.items()):
            if key[0] != "Pod":
                continue
            node = pod["spec"].get("nodeName") or pinned(pod)
            if pod["metadata"].get("deletionTimestamp") and self.alive(node):
                del self.objects[key]
                changed = True
            elif not pod.get("status") and self.alive(node) and self.free(node) >= gpus(pod):
                pod["spec"]["nodeName"] = node
                pod["status"] = {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
                    "containerStatuses": [{"name": "runtime", "state": {"running": {}}, "restartCount": 0}],
                }
                changed = True
        return changed

    def alive(self, node: str) -> bool:
        """Whether a node is there and ready."""
        return node in self.nodes and self.nodes[node]["status"]["conditions"][0]["status"] == "True"

    def free(self, node: str) -> int:
        """GPUs that no running pod holds."""
        held = sum(
            gpus(pod)
            for pod in self.pods()
            if pod["spec"].get("nodeName") == node and pod["status"]["phase"] == "Running"
        )
        return int(self.nodes[node]["status"]["allocatable"][GPU]) - held

    def fail(self, name: str, *, reason: str = "Error", code: int = 1, said: str = "") -> None:
        """A container of a pod ends."""
        ended = {"exitCode": code, "reason": reason, "message": said, "finishedAt": self.now.isoformat()}
        status = self.objects["Pod", name].setdefault("status", {"conditions": []})
        status["phase"] = "Failed"
        status["conditions"] = [{"type": "Ready", "status": "False"}]
        status["containerStatuses"] = [{"name": "runtime", "state": {"terminated": ended}, "restartCount": 0}]

    def lose(self, node: str) -> None:
        """A node goes away with all that runs on it; its pods stay in the API."""
        del self.nodes[node]

    def unready(self, node: str) -> None:
        """A node's kubelet falls silent."""
        ready = self.nodes[node]["status"]["conditions"][0]
        ready |= {"status": "Unknown", "lastTransitionTime": self.now.isoformat()}

    def edit(self, **spec: Any) -> None:
        """A person applies another spec; sections are merged."""
        for section, value in spec.items():
            old = self.deployment["spec"].get(section)
            self.deployment["spec"][section] = old | value if isinstance(old, dict) else value
        self.deployment["metadata"]["generation"] += 1

    # What a test asks

    def pods(self, replica: int | None = None) -> list[dict[str, Any]]:
        """Pods of the deployment, or of one replica, by name."""
        found = (
            obj for (kind, _), obj in sorted(self.objects.items()) if kind == "Pod" and "labels" in obj["metadata"]
        )
        return [p for p in found if replica is None or label(p, "replica") == str(replica)]

    def indices(self) -> set[int]:
        """Replicas that have pods."""
        return {int(label(pod, "replica")) for pod in self.pods() if label(pod, "replica")}

    def endpoint(self, replica: int) -> Endpoint:
        """What the endpoint says: it answers while one whole group of pods runs."""
        if replica in self.endpoints:
            return self.endpoints[replica]
        pods = self.pods(replica)
        rejoins = self.deployment["spec"]["failure"].get("policy") == "degrade"
        groups = {(label(pod, "plan"), "" if rejoins else label(pod, "attempt")) for pod in pods}
        runs = len(pods) == 2 and len(groups) == 1 and all(running(pod) and self.alive(pinned(pod)) for pod in pods)
        return Endpoint(runs and replica not in self.silent, said="" if runs else "connection refused")

    def serving(self) -> set[int]:
        """Replicas whose endpoint answers."""
        return {index for index in self.indices() if self.endpoint(index).answered}

    def record(self, replica: int) -> dict[str, Any]:
        """The record of a replica."""
        found: dict[str, Any] = json.loads(self.objects["ConfigMap", f"{self._name}-{replica}"]["data"]["record.json"])
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition as the status has it."""
        return next(c for c in self.deployment["status"]["conditions"] if c["type"] == kind)

    def replica_status(self, replica: int) -> dict[str, Any]:
        """What the status says of a replica."""
        return next(r for r in self.deployment["status"]["replicaStatuses"] if r["index"] == replica)

    def names(self, kind: str) -> list[str]:
        """Names of the objects of a kind."""
        return sorted(name for found, name in self.objects if found == kind)

    @property
    def _name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    def check(self) -> None:
        """What holds at every instant."""
        slots = Counter((label(pod, "replica"), label(pod, "slot")) for pod in self.pods())
        assert max(slots.values(), default=0) <= 1, "two pods for one slot"
        for pod in self.pods():
            if ("ConfigMap", f"{self._name}-{label(pod, 'replica')}") in self.objects:
                record = self.record(int(label(pod, "replica")))
                made, slot = int(label(pod, "attempt")), int(label(pod, "slot"))
                wanted = dict(record["renewed"]).get(slot, record["attempt"])
                assert made <= wanted, "a pod without a record of its attempt"
                if made == wanted:
                    assert pinned(pod) == record["nodes"][int(label(pod, "slot"))], "a pod beside its record"


def running(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs and nobody takes it away."""
    status = pod.get("status") or {}
    return status.get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def label(obj: Mapping[str, Any], name: str) -> str:
    """One of our labels."""
    return str(obj["metadata"].get("labels", {}).get(PREFIX + name, ""))


def pinned(pod: Mapping[str, Any]) -> str:
    """The node that a pod's affinity names."""
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    return str(terms[0]["matchFields"][0]["values"][0])


def gpus(pod: Mapping[str, Any]) -> int:
    """GPUs that a pod asks for."""
    return sum(int(c["resources"].get("requests", {}).get(GPU, 0)) for c in pod["spec"]["containers"])


def every_write(decision: Decision) -> Iterator[Write]:
    """Writes of a decision in order."""
    return itertools.chain.from_iterable(decision.stages)


def settled(nodes: int = 4, **spec: Any) -> Cluster:
    """A deployment that has come up, as far as its nodes let it, with its log emptied."""
    cluster = Cluster(manifest(**spec), nodes=nodes)
    cluster.settle()
    cluster.log.clear()
    cluster.events.clear()
    return cluster
