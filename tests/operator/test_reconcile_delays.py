"""What keeps a replica from serving and no restart would cure, and what troubles one that serves; as a person reads it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moe_operator.pod_events import newest_first
from moe_operator.reconcile.delays import apart, concern, delay, looks_again
from moe_operator.reconcile.model import Absent, Endpoint, Slow
from moe_operator.reconcile.wordings import wordings

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def pod(
    slot: int, state: dict[str, Any] | None = None, *, phase: str = "Pending", bound_s: float = 3.0
) -> dict[str, Any]:
    """A pod on its node, as a kubelet leaves it whose container is in a state."""
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(bound_s)}]
    states = [{"name": "runtime", "restartCount": 0, "state": state}] if state else []
    return {
        "metadata": {"name": f"m-0-{slot}", "uid": f"uid-{slot}"},
        "spec": {"nodeName": f"node-{slot}"},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": states},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def refused(slot: int, message: str, seconds: float) -> dict[str, Any]:
    """A pod that the scheduler does not bind."""
    found = pod(slot)
    found["spec"] = {"affinity": pinned(f"node-{slot}")}
    found["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": ago(seconds),
        }
    ]
    return found


def pinned(node: str) -> dict[str, Any]:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def node(ready: str = "True", said: str = "", **spec: Any) -> dict[str, Any]:
    since = {"type": "Ready", "status": ready, "lastTransitionTime": ago(10), "message": said}
    return {"metadata": {"name": "node-0"}, "spec": spec, "status": {"conditions": [since]}}


PULL = 'Back-off pulling image "registry.example.com/moe:9": ErrImagePull: '
UNPACK = 'failed to pull and unpack image "registry.example.com/moe:9": failed to resolve reference "registry.example.com/moe:9": '


# Messages as kubelets 1.31 to 1.36 with containerd 1.6 to 2.1 write them.
@pytest.mark.parametrize(
    ("word", "said", "reason"),
    [
        ("ImagePullBackOff", f"{PULL}{UNPACK}registry.example.com/moe:9: not found", "ImageNotFound"),
        ("ErrImagePull", f"{UNPACK}unexpected status from HEAD request to https://registry.example.com/v2/moe/manifests/9: 401 Unauthorized", "ImagePullDenied"),
        ("ErrImagePull", f"{UNPACK}pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed", "ImagePullDenied"),
        ("ErrImagePull", f'{UNPACK}failed to do request: Head "https://registry.example.com/v2/": dial tcp: lookup registry.example.com on 10.0.0.10:53: no such host', "RegistryUnreachable"),
        ("ErrImagePull", f"{UNPACK}failed to copy: httpReadSeeker: failed open: 429 Too Many Requests - toomanyrequests", "RegistryUnreachable"),
        ("ErrImagePull", "failed to extract layer sha256:1: write /var/lib/containerd/x: no space left on device", "NodeDiskFull"),
        ("ErrImagePull", "something quite new", "ImagePullFailed"),
        ("ErrImageNeverPull", 'Container image "moe:9" is not present with pull policy of Never', "ImageNotOnNode"),
        ("InvalidImageName", 'Failed to apply default image tag "moe:9:9": couldn\'t parse image name', "InvalidImageName"),
        ("CreateContainerConfigError", 'secret "hf" not found', "ReferenceMissing"),
        ("CreateContainerConfigError", 'configmap "settings" not found', "ReferenceMissing"),
        ("CreateContainerConfigError", "couldn't find key token in Secret team/hf", "ReferenceMissing"),
        ("CreateContainerConfigError", 'container has runAsNonRoot and image will run as root (pod: "m-0-0")', "ImageRunsAsRoot"),
        ("CreateContainerConfigError", "something quite new", "ContainerNotCreated"),
        ("CreateContainerError", 'failed to generate container "x" spec: no such device', "ContainerNotCreated"),
        ("CrashLoopBackOff", "back-off 20s restarting failed container=sidecar", "ContainerExited"),
        ("WordOfTomorrow", "", "ContainerNotCreated"),
    ],
)  # fmt: skip
def test_a_container_that_does_not_start_gives_a_reason_of_ours_and_the_kubelets_words(
    word: str, said: str, reason: str
) -> None:
    found = delay({0: pod(0, waiting("ContainerCreating")), 1: pod(1, waiting(word, said))}, {}, {}, NOW)
    assert found is not None
    assert (found.reason, found.slot) == (reason, 1)
    assert found.message.startswith("slot 1 on node-1: container runtime does not start: ")
    assert said.rpartition("ErrImagePull: ")[2][:80] in found.message
    assert word.replace("ImagePullBackOff", "ErrImagePull") in found.message
    assert not found.message.endswith(")"), "the message says what to do"


def test_the_two_words_of_a_failed_pull_give_the_same_message() -> None:
    told = [
        delay({0: pod(0, waiting(word, said))}, {}, {}, NOW)
        for word, said in (("ErrImagePull", f"{UNPACK}not found"), ("ImagePullBackOff", f"{PULL}{UNPACK}not found"))
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('0/4 nodes are available: persistentvolumeclaim "weights" not found. not found', "ClaimMissing"),
        ("0/4 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found", "ClaimUnbound"),
        ("0/4 nodes are available: 4 node(s) didn't find available persistent volumes to bind. no new claims", "ClaimUnbound"),
        ("0/4 nodes are available: 4 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.", "VolumeInUse"),
        ("0/4 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 3 node(s) didn't match Pod's node affinity/selector.", "VolumeElsewhere"),
    ],
)  # fmt: skip
def test_a_volume_that_no_node_can_have_is_told_at_once(said: str, reason: str) -> None:
    found = delay({0: refused(0, said, 0.5)}, {}, {}, NOW)
    assert found is not None
    assert (found.reason, found.passes) == (reason, False)
    assert said in found.message


def test_what_the_scheduler_refuses_else_is_told_after_some_seconds_and_may_pass() -> None:
    said = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
    assert delay({0: refused(0, said, 1)}, {}, {}, NOW) is None
    found = delay({0: refused(0, said, 6)}, {}, {}, NOW)
    assert found is not None
    assert (found.reason, found.passes) == ("Unschedulable", True)
    assert found.message == f"slot 0: the scheduler does not bind it to node-0: {said}"


@pytest.mark.parametrize(
    ("event", "reason", "passes"),
    [
        ('FailedAttachVolume: Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) m-0-0', "VolumeInUse", False),
        ('FailedMount: MountVolume.SetUp failed for volume "model" : hostPath type check failed: /data/m is not a directory', "PathMissing", False),
        ('FailedMount: MountVolume.SetUp failed for volume "plan" : configmap "m-plan-1" not found', "ReferenceMissing", False),
        ('FailedMount: MountVolume.SetUp failed for volume "nfs" : mount failed: exit status 32', "VolumeNotMounted", False),
        ('FailedCreatePodSandBox: Failed to create pod sandbox: plugin type="bridge" failed (add): no IP addresses available', "PodNetworkFailed", True),
        ("WordOfTomorrow: who knows", "PodNotPrepared", True),
    ],
)  # fmt: skip
def test_a_pod_without_containers_gives_the_reason_of_its_events(event: str, reason: str, *, passes: bool) -> None:
    stuck = pod(1, waiting("ContainerCreating"), bound_s=12)
    found = delay({0: pod(0, {"running": {}}, phase="Running"), 1: stuck}, {}, {"uid-1": (event,)}, NOW)
    assert found is not None
    assert (found.reason, found.passes, found.slot) == (reason, passes, 1)
    assert found.message.startswith(f"slot 1 on node-1: its containers are not created: {event[:40]}")


def test_of_several_events_the_telling_one_is_the_cause() -> None:
    later = (
        "FailedMount: Unable to attach or mount volumes: unmounted volumes=[model]: timed out waiting for the condition"
    )
    first = (
        'FailedAttachVolume: Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node'
    )
    found = delay({0: pod(0, waiting("ContainerCreating"))}, {}, {"uid-0": (later, first)}, NOW)
    assert found is not None
    assert found.reason == "VolumeInUse"


def test_events_of_a_pod_whose_volumes_and_network_are_there_are_old_news() -> None:
    pulling = pod(0, waiting("ContainerCreating"), bound_s=60)
    pulling["status"]["conditions"].append({"type": "PodReadyToStartContainers", "status": "True"})
    old = {"uid-0": ('FailedMount: MountVolume.SetUp failed for volume "plan" : timed out',)}
    assert delay({0: pulling}, {}, old, NOW) is None
    assert list(looks_again([pulling], NOW)) == []


def test_a_stuck_pod_is_looked_at_again_and_a_running_one_is_not() -> None:
    assert list(looks_again([pod(0, waiting("ContainerCreating"), bound_s=3)], NOW)) == [pytest.approx(5)]
    assert list(looks_again([pod(0, waiting("PodInitializing"), bound_s=30)], NOW)) == [pytest.approx(10)]
    assert list(looks_again([pod(0, {"running": {}}, phase="Running")], NOW)) == []


def test_what_a_person_must_act_upon_comes_before_what_may_pass() -> None:
    pods = {
        0: pod(0, waiting("ErrImagePull", "dial tcp: i/o timeout")),
        1: pod(1, waiting("CreateContainerConfigError", 'secret "hf" not found')),
    }
    found = delay(pods, {"node-0": node("Unknown")}, {}, NOW)
    assert found is not None
    assert found.reason == "ReferenceMissing"


def test_a_node_that_ceased_to_be_ready_is_named_before_its_slots_are_lost() -> None:
    found = delay({0: pod(0)}, {"node-0": node("Unknown", "Kubelet stopped posting node status.")}, {}, NOW)
    assert found is not None
    assert (found.reason, found.passes) == ("NodeNotReady", True)
    assert found.message == "slot 0: node node-0 is not ready: Kubelet stopped posting node status."


def test_a_replica_serves_in_spite_of_a_slow_slot_or_a_cordoned_node() -> None:
    pods = {0: pod(0, {"running": {}}, phase="Running")}
    fine = Endpoint(answered=True)
    assert concern(pods, {"node-0": node()}, fine, ("node-0",)) is None
    cordoned = concern(pods, {"node-0": node(unschedulable=True)}, fine, ("node-0",))
    assert cordoned is not None
    assert (cordoned.reason, cordoned.message.partition(":")[0]) == ("NodeCordoned", "node node-0 is cordoned")
    slow = Endpoint(answered=True, slow=(Slow(0, 1.9), Slow(1, 3.1)))
    found = concern(pods, {"node-0": node()}, slow, ("node-0", "node-7"))
    assert found is not None
    assert found.reason == "SlowSlot"
    assert found.message.startswith("slot 1 on node-7 computes 3.1 times as long as the others")


def running(slot: int, seconds: float) -> dict[str, Any]:
    return pod(slot, {"running": {"startedAt": ago(seconds)}}, phase="Running")


def test_a_slot_that_its_frontend_misses_says_itself_why() -> None:
    said = "NameUnknown: the frontend m-0-0.m-0.team port 29500 has not taken it in: DNS: Name or service not known"
    endpoint = Endpoint(answered=False, absent=(Absent(1, said), Absent(2)))
    assert apart({1: running(1, 5)}, endpoint, NOW) is None, "it may have started only now"
    found = apart({1: running(1, 20)}, endpoint, NOW)
    assert found is not None
    assert (found.reason, found.slot) == ("NameUnknown", 1)
    assert found.message.startswith("slot 1 on node-1: the frontend m-0-0.m-0.team port 29500 has not taken it in: DNS")
    starting = Endpoint(answered=False, absent=(Absent(1, "the ranks are starting"),))
    assert apart({1: running(1, 20)}, starting, NOW) is None
    cut = Endpoint(answered=False, absent=(Absent(1, "the frontend at m port 1 has not taken it in: timed out"),))
    found = apart({1: running(1, 20)}, cut, NOW)
    assert found is not None
    assert found.reason == "SlotNotJoined"


def test_events_are_told_by_pod_the_newest_first() -> None:
    def event(uid: str, reason: str, **times: Any) -> dict[str, Any]:
        return {"regarding": {"uid": uid}, "reason": reason, "note": "why", **times}

    events = [
        event("a", "Old", deprecatedLastTimestamp="2026-11-21T11:00:00Z"),
        event("a", "New", eventTime="2026-11-21T11:59:00Z", series={"lastObservedTime": "2026-11-21T12:00:00Z"}),
        event("b", "Other", eventTime="2026-11-21T11:59:00Z"),
    ]
    assert newest_first(events, ["a"]) == {"a": ("New: why", "Old: why")}


def test_the_reasons_are_a_closed_set() -> None:
    for kind in ("waiting", "event", "ended", "failed", "refused"):
        rows = [row for row in wordings() if row.kind == kind]
        assert [row.pattern.pattern == "" for row in rows] == [False] * (len(rows) - 1) + [True], kind
