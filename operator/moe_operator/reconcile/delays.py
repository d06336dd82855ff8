"""What keeps a replica from serving that no restart would cure, and what troubles one that serves.

Kubelets and the scheduler try again by themselves. What only a person can cure comes before what may pass. Of a pod
that is bound and does not get as far as its containers, the status says nothing: its Warning events do.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from moe_operator.reconcile.causes import Failure, not_bound, not_ready_since, unschedulable
from moe_operator.reconcile.model import Endpoint, Object
from moe_operator.reconcile.objects import condition, container_states, holds, node_of, parse_time, phase, uid
from moe_operator.reconcile.wordings import last_line, recognise, understand, wordings

TELL_AFTER = timedelta(seconds=5)
"""How long the scheduler may refuse a pod before it is told."""
STUCK_AFTER = timedelta(seconds=8)
"""How long a bound pod may be without containers before its events are read."""
JOINED_AFTER = timedelta(seconds=15)
"""How long a slot may run without reaching its frontend before it is told."""
_OUTSIDE = "has not taken it in"
"""In what an agent says while it is without a frontend: moe_runtime/group/agent.py."""
LOOK_AGAIN_S = 10.0
"""Between two looks at the events of pods that are stuck."""
_ORDINARY = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons with which every container waits for a while: pkg/kubelet/kubelet_pods.go."""
_SHOWN = 3

Warnings = Mapping[str, tuple[str, ...]]
"""Of pods by uid: their Warning events as "REASON: note", the newest first."""


def delay(pods: Mapping[int, Object], nodes: Mapping[str, Object], warnings: Warnings, now: datetime) -> Failure | None:
    """What keeps pods from starting; what a person must act upon first."""
    found = [
        *_not_ready_nodes(pods, nodes),
        *(f for slot in sorted(pods) if (f := waiting(slot, pods[slot]))),
        *(f for slot in sorted(pods) if (f := _unbound(slot, pods[slot], now))),
        *(f for slot in sorted(pods) if (f := _unprepared(slot, pods[slot], warnings))),
    ]
    return min(found, key=lambda failure: failure.passes, default=None)


def waiting(slot: int, pod: Object) -> Failure | None:
    """What keeps a container of a pod from starting, which the kubelet retries by itself."""
    for state in container_states(pod):
        wait = (state.get("state") or {}).get("waiting") or {}
        word = str(wait.get("reason") or "")
        if not word or word in _ORDINARY:
            continue
        said = str(wait.get("message") or "")
        row = understand("waiting", f"{word}: {said}")
        detail = last_line(said.rpartition("ErrImagePull: ")[2])
        where = f" on {node_of(pod)}" if node_of(pod) else ""
        sentence = f"slot {slot}{where}: container {state.get('name')} does not start: "
        sentence += f"{detail} ({_steady(word)})" if detail else word
        return Failure(row.reason, row.advise(sentence), slot, row.passes)
    return None


def stuck(pod: Object, now: datetime) -> bool:
    """Whether a pod has been bound for a while, and its kubelet has not got as far as its containers."""
    since = _bound_since(pod)
    return since is not None and now - since >= STUCK_AFTER


def looks_again(pods: Iterable[Object], now: datetime) -> Iterator[float]:
    """Seconds after which there is something new to be told, maybe."""
    for pod in pods:
        if phase(pod) == "Running":
            yield from _left(_running_since(pod), JOINED_AFTER, now)
        elif (bound := _bound_since(pod)) is not None:
            left = (bound + STUCK_AFTER - now).total_seconds()
            yield left if left > 0 else LOOK_AGAIN_S
        elif (refused := unschedulable(pod)) is not None:
            yield from _left(parse_time(refused.get("lastTransitionTime")), TELL_AFTER, now)


def _left(since: datetime | None, grace: timedelta, now: datetime) -> Iterator[float]:
    """Seconds until a grace period ends that has begun."""
    if since is not None:
        yield (since + grace - now).total_seconds()


def concern(
    pods: Mapping[int, Object], nodes: Mapping[str, Object], endpoint: Endpoint | None, placed: tuple[str, ...]
) -> Failure | None:
    """What troubles a replica that serves."""
    found = next(_not_ready_nodes(pods, nodes), None)
    if found is not None:
        return found
    slow = [one for one in (endpoint.slow if endpoint else ()) if one.slot < len(placed)]
    if slow:
        first = max(slow, key=lambda one: one.factor)
        return Failure(
            "SlowSlot",
            f"slot {first.slot} on {placed[first.slot]} computes {first.factor:g} times as long as the others, which wait "
            "for it in each step; see that node's clocks, temperature and neighbours",
            first.slot,
            passes=True,
        )
    cordoned = [node for node in dict.fromkeys(placed) if (nodes.get(node) or {}).get("spec", {}).get("unschedulable")]
    if cordoned:
        which = f"node {cordoned[0]} is" if len(cordoned) == 1 else f"nodes {_listed(cordoned)} are"
        return Failure(
            "NodeCordoned", f"{which} cordoned: pods there serve on, and do not come back there", passes=True
        )
    return None


def apart(pods: Mapping[int, Object], endpoint: Endpoint | None, now: datetime) -> Failure | None:
    """A slot that has run for a while without reaching its frontend, which answers and misses it, as the slot says."""
    for one in endpoint.absent if endpoint else ():
        pod = pods.get(one.slot)
        since = _running_since(pod) if pod is not None and phase(pod) == "Running" else None
        if pod is None or since is None or now - since < JOINED_AFTER or _OUTSIDE not in one.said:
            continue
        row = understand("ended", f": {one.said}")
        reason = "NameUnknown" if row.reason == "NameUnknown" else "SlotNotJoined"
        said = last_line(one.said.removeprefix(f"{row.reason}: "))
        sentence = f"slot {one.slot} on {node_of(pod)}: {said}"
        remedy = row.remedy if reason == "NameUnknown" else "see NetworkPolicies between the replica's pods"
        return Failure(reason, f"{sentence}; {remedy}", one.slot, passes=True)
    return None


def _not_ready_nodes(pods: Mapping[int, Object], nodes: Mapping[str, Object]) -> Iterator[Failure]:
    """Nodes that ceased to be ready, before their slots count as lost."""
    for slot in sorted(pods):
        node = node_of(pods[slot]) or ""
        if not_ready_since(nodes.get(node)) is not None:
            said = last_line(str((condition(nodes[node], "Ready") or {}).get("message") or ""))
            detail = f": {said}" if said else ""
            yield Failure("NodeNotReady", f"slot {slot}: node {node} is not ready{detail}", slot, passes=True)


def _unbound(slot: int, pod: Object, now: datetime) -> Failure | None:
    refused = unschedulable(pod)
    if refused is None:
        return None
    row = recognise("unbound", str(refused.get("message") or ""))
    if row is not None:
        return Failure(row.reason, row.advise(not_bound(slot, pod)), slot, row.passes)
    since = parse_time(refused.get("lastTransitionTime"))
    if since is None or now - since < TELL_AFTER:
        return None
    return Failure("Unschedulable", not_bound(slot, pod), slot, passes=True)


def _unprepared(slot: int, pod: Object, warnings: Warnings) -> Failure | None:
    """What its events say of a pod that is stuck: of several, what the table has first."""
    told = warnings.get(uid(pod), ())
    if not told or _bound_since(pod) is None:
        return None
    rows = wordings()
    row, said = min(((understand("event", one), one) for one in told), key=lambda pair: rows.index(pair[0]))
    sentence = f"slot {slot} on {node_of(pod)}: its containers are not created: {last_line(' '.join(said.split()))}"
    return Failure(row.reason, row.advise(sentence), slot, row.passes)


def _bound_since(pod: Object) -> datetime | None:
    """When a pod was bound whose kubelet has not got as far as its containers: volumes, network and devices come first.

    https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-ready-to-start-containers
    """
    if phase(pod) != "Pending":
        return None
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "True" or holds(pod, "PodReadyToStartContainers"):
        return None
    states = (state.get("state") or {} for state in container_states(pod))
    if any(
        set(state) - {"waiting"} or (state["waiting"] or {}).get("reason") not in _ORDINARY for state in states if state
    ):
        return None
    return parse_time(scheduled.get("lastTransitionTime"))


def _running_since(pod: Object) -> datetime | None:
    """When the container of a pod began to run that is not Ready; None where it does not run, or is."""
    if holds(pod, "Ready"):
        return None
    begun = (((state.get("state") or {}).get("running") or {}).get("startedAt") for state in container_states(pod))
    return max((time for text in begun if (time := parse_time(text))), default=None)


def _steady(word: str) -> str:
    """One of the two words that alternate while a pull fails, so that the message stays the same."""
    return "ErrImagePull" if word == "ImagePullBackOff" else word


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
