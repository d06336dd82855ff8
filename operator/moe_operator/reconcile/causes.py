"""Why a replica must be restarted: read from its pods and nodes, the root cause first.

When one rank dies, its peers die of the broken communication a little later: a lost node or a pod that was taken away
comes before containers that ended, and of these the one that ended first is the cause. What keeps pods from starting
without any need to restart them is the business of `delays`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from moe_operator.reconcile import objects
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import condition, container_states, name, node_of, parse_time, terminating
from moe_operator.reconcile.wordings import last_line, last_lines, reasons_of, recognise, understand

NODE_GRACE = timedelta(seconds=30)
"""How long a node may be not ready before its slots count as lost; the node controller has waited 40 s before."""
BIND_GRACE = timedelta(seconds=30)
"""How long the scheduler may refuse a pod its node before the replica is placed anew."""

REFUSALS = reasons_of("refused")
"""Reasons of `refusal`: nothing was started, so nothing has failed."""

_DISRUPTIONS = {
    "PreemptionByScheduler": ("Preempted", "was preempted by a pod of higher priority"),
    "DeletionByTaintManager": ("NodeTainted", "was evicted from {node} by a taint"),
    "EvictionByEvictionAPI": ("Evicted", "was evicted from {node}, as when a node is drained"),
    "DeletionByPodGC": ("NodeLost", "was collected since {node} is gone"),
    "TerminationByKubelet": ("Evicted", "was ended by the kubelet of {node}"),
}
"""Reasons of the pod condition DisruptionTarget:
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a group of pods is of no use any more, or does not start."""

    reason: str
    """CamelCase word for machines, of a closed set."""
    message: str
    """Sentence for people; the same as long as the cause is."""
    slot: int | None = None
    """The slot that it began with."""
    passes: bool = False
    """Whether it may pass by itself, so that nobody must act yet."""


def failure(
    pods: Mapping[int, Object], nodes: Mapping[str, Object], placed: tuple[str, ...], now: datetime
) -> Failure | None:
    """The root cause why the group must be restarted; None while it need not. `placed` has the node of each slot."""
    lost = [f for slot in sorted(pods) if slot < len(placed) and (f := _node_lost(slot, placed[slot], nodes, now))]
    if lost:
        return lost[0]
    taken = [_taken(slot, pods[slot]) for slot in sorted(pods) if terminating(pods[slot]) or _evicted(pods[slot])]
    if taken:
        return taken[0]
    ended = sorted((when, slot, found) for slot, pod in pods.items() for when, found in _ended(slot, pod))
    if ended:
        return ended[0][2]
    unbound = [f for slot in sorted(pods) if (f := _unbound(slot, pods[slot], now))]
    return unbound[0] if unbound else None


def refusal(said: str) -> Failure:
    """What the API server says to a write that it refuses for good."""
    row = understand("refused", said)
    return Failure(row.reason, row.advise(said))


def looks_again(
    pods: Mapping[int, Object], nodes: Mapping[str, Object], placed: tuple[str, ...], now: datetime
) -> Iterator[float]:
    """Seconds after which a grace period ends that has begun."""
    for node in set(placed):
        since = not_ready_since(nodes.get(node))
        if since is not None:
            yield (since + NODE_GRACE - now).total_seconds()
    for pod in pods.values():
        refused = unschedulable(pod)
        since = parse_time(refused.get("lastTransitionTime")) if refused else None
        if since is not None:
            yield (since + BIND_GRACE - now).total_seconds()


def node_lost(node: str, nodes: Mapping[str, Object], now: datetime) -> bool:
    """Whether a node is gone, or has not been ready for longer than the grace period."""
    if node not in nodes:
        return True
    since = not_ready_since(nodes[node])
    return since is not None and now - since >= NODE_GRACE


def not_ready_since(node: Object | None) -> datetime | None:
    """When a node ceased to be ready; None while it is."""
    ready = condition(node, "Ready") if node is not None else None
    if ready is None or ready.get("status") == "True":
        return None
    return parse_time(ready.get("lastTransitionTime"))


def unschedulable(pod: Object) -> Mapping[str, Any] | None:
    """The scheduler's refusal of a pod that is not bound."""
    found = condition(pod, "PodScheduled")
    return found if found and found.get("status") == "False" and found.get("reason") == "Unschedulable" else None


def not_bound(slot: int, pod: Object) -> str:
    """What the scheduler says of a pod that it refuses to bind."""
    said = last_line(str((unschedulable(pod) or {}).get("message") or ""))
    return f"slot {slot}: the scheduler does not bind it to {node_of(pod)}: {said}"


def _node_lost(slot: int, node: str, nodes: Mapping[str, Object], now: datetime) -> Failure | None:
    if not node_lost(node, nodes, now):
        return None
    what = "is not ready" if node in nodes else "is gone"
    return Failure("NodeLost", f"slot {slot}: node {node} {what}", slot)


def _evicted(pod: Object) -> bool:
    return objects.finished(pod) and objects.holds(pod, "DisruptionTarget")


def _taken(slot: int, pod: Object) -> Failure:
    """A pod that someone else takes away."""
    target = condition(pod, "DisruptionTarget") or {}
    reason, words = _DISRUPTIONS.get(str(target.get("reason")), ("PodDeleted", "was deleted"))
    said = (pod.get("status") or {}).get("message") if reason == "Evicted" else None
    detail = f": {last_line(str(said))}" if said else ""
    message = f"slot {slot}: pod {name(pod)} {words.format(node=node_of(pod) or 'its node')}{detail}"
    return Failure(reason, message, slot)


def _ended(slot: int, pod: Object) -> Iterator[tuple[str, Failure]]:
    """Containers that ended though they should serve, with the time of their end."""
    found = [
        (str(ended.get("finishedAt") or "~"), _exit(slot, pod, state, ended))
        for state in container_states(pod)
        if (ended := _termination(state))
    ]
    yield from found
    if not found and objects.finished(pod):
        yield "~", _failed_whole(slot, pod)


def _failed_whole(slot: int, pod: Object) -> Failure:
    """A pod that failed without a container that ended: its kubelet would not have it, or not any more."""
    status = pod.get("status") or {}
    word, said = str(status.get("reason") or ""), last_line(str(status.get("message") or ""))
    told = ": ".join(filter(None, (word, said))) or f"phase {objects.phase(pod)}"
    found = understand("failed", told)
    return Failure(found.reason, found.advise(f"slot {slot} on {node_of(pod) or 'its node'}: {told}"), slot)


def _termination(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How a container ended, if it did. Init containers that are done are as they should be."""
    now = (state.get("state") or {}).get("terminated")
    if now:
        return None if _is_init_done(state, now) else dict(now)
    last = (state.get("lastState") or {}).get("terminated")
    return dict(last) if last and state.get("restartCount") else None


def _is_init_done(state: Mapping[str, Any], ended: Mapping[str, Any]) -> bool:
    return ended.get("exitCode") == 0 and bool(state.get("init"))


def _exit(slot: int, pod: Object, state: Mapping[str, Any], ended: Mapping[str, Any]) -> Failure:
    where = node_of(pod) or "its node"
    what = f"slot {slot} on {where}: container {state.get('name')}"
    word, words = str(ended.get("reason") or ""), str(ended.get("message") or "")
    found = understand("ended", f"{word}: {words}")
    said = last_lines(words).removeprefix(f"{found.reason}: ")
    told = f": {said}" if said else ""
    if found.reason == "OOMKilled":
        sentence = f"{what} ran out of memory (OOMKilled){_limit(pod, str(state.get('name')))}"
    elif found.reason == "ContainerNotStarted":
        sentence = f"{what} could not be started{told}"
    else:
        signal = f" (signal {ended['signal']})" if ended.get("signal") else ""
        sentence = f"{what} exited with {ended.get('exitCode')}{signal}{told}"
    return Failure(found.reason, found.advise(sentence), slot)


def _limit(pod: Object, container: str) -> str:
    """The memory limit of a container, in words."""
    spec = pod.get("spec") or {}
    for one in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        limit = ((one.get("resources") or {}).get("limits") or {}).get("memory")
        if one.get("name") == container and limit is not None:
            return f", with a limit of {limit}"
    return ""


def _unbound(slot: int, pod: Object, now: datetime) -> Failure | None:
    """A pod that the scheduler refuses for so long that another node is looked for."""
    refused = unschedulable(pod)
    since = parse_time(refused.get("lastTransitionTime")) if refused else None
    if refused is None or since is None or now - since < BIND_GRACE:
        return None
    if recognise("unbound", str(refused.get("message") or "")):
        return None  # it would be refused on any node
    return Failure("Unschedulable", not_bound(slot, pod), slot)
