"""The life of one replica: what to do next, given what its record says and what its pods have come to.

A replica without a record is placed, gets its record, then its pods. A failure writes a record of the next attempt,
deletes the pods, waits for the backoff and until the old pods are gone, and makes the new ones; a node that cannot
take its slot any more is replaced just before that. A replica that cannot be placed holds nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from moe_operator.manifests import chosen_gang
from moe_operator.placement import Placement, Unplaceable
from moe_operator.reconcile import causes, children, delays, objects
from moe_operator.reconcile.causes import Failure
from moe_operator.reconcile.children import Observed
from moe_operator.reconcile.model import Object, View, Write
from moe_operator.reconcile.objects import finished, identity, node_of, terminating
from moe_operator.reconcile.placing import Ground
from moe_operator.reconcile.record import Record
from moe_operator.reconcile.replicas import Replica, restored, with_record
from moe_operator.reconcile.revisions import Revision
from moe_plan.spec import Spec

LONGEST_BACKOFF = timedelta(seconds=300)
"""Cap of the doubled backoff, as the kubelet's for crashing containers."""
SERVED_LONG = timedelta(seconds=600)
"""A replica that has served this long starts again from no restarts."""
PLACE_AGAIN_S = 30.0
"""A replica without nodes looks again after this time even if no node has changed."""

Stages = tuple[tuple[Write, ...], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is done of a replica now, and what there is to say of it."""

    replica: Replica
    """As observed, under the record as decided."""
    stages: Stages = ()
    wake_after_s: tuple[float, ...] = ()
    unplaceable: Unplaceable | None = None
    trouble: Failure | None = None
    """What keeps it from serving; of one that serves, what it does so in spite of."""
    taken: tuple[Object, ...] = ()
    """Foreign objects that bear the names of its children."""
    leaving: bool = False
    """Whether it is being removed."""
    restarting: bool = False
    """Whether its pods are being given up."""

    @property
    def serving(self) -> bool:
        """Whether its endpoint answers, and will after what is decided."""
        return self.replica.serving and not self.leaving and not self.restarting


@dataclass(frozen=True)
class Scene:
    """What all replicas of one decision share."""

    view: View
    observed: Observed
    revisions: Mapping[str, Revision]
    """By hash: today's, and those whose plan is held."""
    replicas: Mapping[int, Replica]
    ground: Ground
    spec: Spec | None
    """Today's spec; None while it is not valid."""

    @cached_property
    def nodes(self) -> Mapping[str, Object]:
        """Node objects by name."""
        return {objects.name(node): node for node in self.view.nodes}

    def revised(self, replica: Replica, record: Record) -> Replica:
        """The replica under a new record: its pods are those of an earlier attempt now."""
        return replace(
            replica, record=record, revision=self.revisions.get(record.plan), pods={}, stale=replica.every_pod
        )

    def clear(self, pods: Iterable[Object]) -> tuple[Write, ...]:
        """Deletions of pods, forced where the node cannot confirm them."""
        return tuple(write for pod in pods if (write := self._clear(pod)))

    def _clear(self, pod: Object) -> Write | None:
        node = node_of(pod)
        if node is not None and causes.node_lost(node, self.nodes, self.view.now):
            forced = terminating(pod) and pod["metadata"].get("deletionGracePeriodSeconds") == 0
            return None if forced else children.forced_deletion(pod)
        return None if terminating(pod) else children.deletion(pod)


def begin(scene: Scene, replica: Replica, revision: Revision, *, surge: bool = False) -> Outcome:
    """A replica that has no record: restore it from its pods, or place it and make them once no old ones are left."""
    base = objects.name(scene.view.deployment)
    found = restored(base, replica, scene.revisions)
    if found is not None:
        return _hold(scene, with_record(base, replica, found, scene.revisions), found)
    if replica.stale:
        return Outcome(replica, (scene.clear(replica.stale),))
    if scene.view.refused is not None:
        return Outcome(replica)
    placement = scene.ground.place(replica.index, revision)
    if isinstance(placement, Unplaceable):
        return Outcome(replica, wake_after_s=(PLACE_AGAIN_S,), unplaceable=placement)
    return _launch(scene, replica, revision, _placed(Record(revision.hash, 1, (), surge=surge), placement))


def replace_with(scene: Scene, replica: Replica, revision: Revision) -> Outcome:
    """A replica that shall run another revision: stays as it is until there is room for that."""
    assert replica.record is not None
    stay = replica.record.nodes if _same_shape(replica.revision, revision) else ()
    placement = scene.ground.place(replica.index, revision, stay)
    if isinstance(placement, Unplaceable):
        waiting = advance(scene, replica)
        return replace(waiting, unplaceable=placement, wake_after_s=(*waiting.wake_after_s, PLACE_AGAIN_S))
    record = Record(revision.hash, replica.record.latest + 1, (), surge=replica.record.surge)
    outcome = _launch(scene, replica, revision, _placed(record, placement))
    return outcome if outcome.taken else replace(outcome, restarting=bool(replica.every_pod))


def remove(scene: Scene, replica: Replica) -> Outcome:
    """A replica that is not wanted any more."""
    scene.ground.take(replace(replica, record=None))
    others = (children.deletion(obj) for obj in replica.others if not terminating(obj))
    return Outcome(replica, ((*scene.clear(replica.every_pod), *others),), leaving=True)


def advance(scene: Scene, replica: Replica) -> Outcome:
    """A replica that keeps its revision: the next step towards serving, and what has gone wrong on the way."""
    record = replica.record
    assert record is not None
    if replica.revision is None:
        return Outcome(replica)
    if record.failed is not None:
        return _failed(scene, replica, record)
    failure = _failure(scene, replica, record)
    if failure is not None:
        return _restart(scene, replica, record, failure)
    if replica.stale:
        restarting = not replica.degraded
        return replace(_then(_hold(scene, replica, record), scene.clear(replica.stale)), restarting=restarting)
    if not replica.whole:
        return _complete(scene, replica, replica.revision, record)
    return _watch(scene, replica, record)


def _failure(scene: Scene, replica: Replica, record: Record) -> Failure | None:
    found = causes.failure(replica.pods, scene.nodes, record.nodes, scene.view.now)
    assert replica.revision is not None
    if found is not None and found.reason == "Unschedulable" and replica.revision.spec.scheduling.queue_name:
        found = None  # a queue may keep it waiting as long as it likes
    if found is None and replica.served and not replica.whole and not replica.degraded:
        gone = next(slot for slot, _ in enumerate(record.nodes) if slot not in (*replica.pods, *dict(record.renewed)))
        return Failure("PodDeleted", f"slot {gone}: its pod was deleted", gone)
    return found


def _restart(scene: Scene, replica: Replica, record: Record, failure: Failure) -> Outcome:
    """The next attempt, or the end of attempts."""
    assert replica.revision is not None
    settings = (scene.spec or replica.revision.spec).failure
    now, since = scene.view.now, record.ready_since
    restarts = 0 if since is not None and now - since >= SERVED_LONG else record.restarts
    told = replace(record, restarts=restarts, last_failure=failure.message, last_reason=failure.reason, failed=None)
    if failure.reason in causes.REFUSALS:
        delay = _backoff(settings.backoff, record.refusals)
        told = replace(told, refusals=record.refusals + 1)
    elif restarts >= settings.max_restarts:
        ended = replace(told, failed=failure.reason)
        return _failed(scene, replace(replica, record=ended), ended)
    else:
        delay = _backoff(settings.backoff, restarts)
        told = replace(told, restarts=restarts + 1, refusals=0)
    told = replace(told, not_before=_whole_second(now + delay))
    if settings.policy == "degrade" and _alone(scene, replica, record, failure):
        assert failure.slot is not None
        renewed = dict(record.renewed) | {failure.slot: record.latest + 1}
        following = replace(told, renewed=tuple(sorted(renewed.items())), ready_since=_whole_second(now))
    else:
        following = replace(told, attempt=record.latest + 1, renewed=(), ready_since=None)
    revised = with_record(objects.name(scene.view.deployment), replica, following, scene.revisions)
    held = _then(_hold(scene, revised, following), scene.clear(revised.stale))
    return replace(held, restarting=not following.renewed, wake_after_s=(delay.total_seconds(),))


def _backoff(first_s: float, before: int) -> timedelta:
    """The wait after so many failures of the same kind."""
    doubled: timedelta = timedelta(seconds=first_s) * 2 ** min(before, 20)
    return min(doubled, LONGEST_BACKOFF)


def _alone(scene: Scene, replica: Replica, record: Record, failure: Failure) -> bool:
    """Whether a serving group can go on without the slot that failed: not the frontend's, and no other failed too."""
    if failure.slot in (None, 0) or not replica.served or replica.revision is None:
        return False
    others = {slot: pod for slot, pod in replica.pods.items() if slot != failure.slot}
    missing = set(range(len(record.nodes))) - others.keys() - dict(record.renewed).keys() - {failure.slot}
    queued = chosen_gang(replica.revision.spec.scheduling, scene.view.served) == "kueue"  # admits whole groups only
    return not missing and not queued and causes.failure(others, scene.nodes, record.nodes, scene.view.now) is None


def _failed(scene: Scene, replica: Replica, record: Record) -> Outcome:
    """No more attempts: live pods give their GPUs back, those that ended keep their logs."""
    assert replica.revision is not None
    assert record.failed is not None
    problem = Failure(record.failed, record.last_failure or "it failed")
    if record.restarts < (scene.spec or replica.revision.spec).failure.max_restarts:
        return _restart(scene, replica, record, problem)
    live = scene.clear(pod for pod in replica.every_pod if not finished(pod))
    return replace(_then(_hold(scene, replica, record), live), trouble=problem)


def _complete(scene: Scene, replica: Replica, revision: Revision, record: Record) -> Outcome:
    """Make the pods that are missing, on nodes that can take them."""
    wait = 0.0 if record.not_before is None else (record.not_before - scene.view.now).total_seconds()
    if wait > 0:
        return replace(_hold(scene, replica, record), wake_after_s=(wait,), restarting=not replica.degraded)
    if scene.view.refused is not None and not replica.degraded:
        return _restart(scene, replica, record, causes.refusal(scene.view.refused))
    if record.nodes and scene.ground.holds(replica.index, revision, record.nodes):
        return _launch(scene, replica, revision, record)
    placement = scene.ground.place(replica.index, revision, record.nodes, fixed=replica.pods)
    if isinstance(placement, Placement):
        return _launch(scene, replica, revision, _placed(record, placement))
    return _homeless(scene, replica, record, placement)


def _homeless(scene: Scene, replica: Replica, record: Record, why: Unplaceable) -> Outcome:
    """No room for slots without a pod: a degraded replica waits with what runs, any other gives everything back."""
    if replica.pods and not replica.degraded:
        return _restart(scene, replica, record, Failure("Unplaceable", f"no room for all its slots: {why}"))
    waiting = record if replica.degraded else replace(record, nodes=(), score=None, misses=())
    scene.ground.take(replace(replica, record=waiting))
    held = _hold(scene, replace(replica, record=waiting), waiting)
    return replace(held, unplaceable=why, wake_after_s=(PLACE_AGAIN_S,))


def _watch(scene: Scene, replica: Replica, record: Record) -> Outcome:
    """A whole group: note when it first serves, and look again when a grace period ends."""
    if replica.serving and record.ready_since is None:
        record = replace(record, ready_since=_whole_second(scene.view.now), refusals=0)
    looks = (
        *causes.looks_again(replica.pods, scene.nodes, record.nodes, scene.view.now),
        *delays.looks_again(replica.pods.values(), scene.view.now),
    )
    held = _hold(scene, replace(replica, record=record), record)
    wakes = tuple(after for after in looks if after > 0)
    return replace(held, wake_after_s=wakes, trouble=_trouble(scene, replica, record))


def _trouble(scene: Scene, replica: Replica, record: Record) -> Failure | None:
    if replica.serving:
        return delays.concern(replica.pods, scene.nodes, replica.endpoint, record.nodes)
    found = delays.delay(replica.pods, scene.nodes, scene.view.warnings, scene.view.now)
    return found or delays.apart(replica.pods, replica.endpoint, scene.view.now)


def _hold(scene: Scene, replica: Replica, record: Record) -> Outcome:
    """Bring the record and the children beside the pods to what they should be."""
    if replica.revision is None:
        return Outcome(replica)
    wanted = _beside_pods(scene, replica.index, replica.revision, record)
    taken = tuple(scene.observed.taken(wanted))
    return Outcome(replica, ((*scene.observed.missing(wanted), *_outlived(replica, wanted)),), taken=taken)


def _launch(scene: Scene, replica: Replica, revision: Revision, record: Record) -> Outcome:
    """Record and children, then the pods that are missing; old pods must be gone first."""
    wanted = _beside_pods(scene, replica.index, revision, record)
    pods = _pods(scene, replica.index, revision, record)
    taken = tuple(scene.observed.taken([*wanted, *pods]))
    if taken:
        return Outcome(replica, taken=taken, wake_after_s=(PLACE_AGAIN_S,))
    same = replica.record is not None and _same_group(replica.record, record)
    revised = replace(replica if same else scene.revised(replica, record), record=record, revision=revision)
    scene.ground.take(revised)
    present = {identity(pod) for pod in revised.pods.values()}
    missing = tuple(Write("apply", pod) for pod in pods if identity(pod) not in present)
    second = (*scene.clear(revised.stale), *_outlived(replica, wanted)) if revised.stale else missing
    return Outcome(revised, (scene.observed.missing(wanted), second))


def _pods(scene: Scene, index: int, revision: Revision, record: Record) -> tuple[Object, ...]:
    """The pod of each slot, of the attempt it belongs to."""
    by_attempt = {
        attempt: children.pods(scene.view.deployment, revision, index, attempt, record, scene.view.served)
        for attempt in {record.attempt_of(slot) for slot, _ in enumerate(record.nodes)}
    }
    return tuple(by_attempt[record.attempt_of(slot)][slot] for slot, _ in enumerate(record.nodes))


def _beside_pods(scene: Scene, index: int, revision: Revision, record: Record) -> tuple[Object, ...]:
    deployment = scene.view.deployment
    beside = children.replica_children(deployment, revision, index, scene.view.served)
    return (*beside, children.record_holder(deployment, revision, index, record))


def _outlived(replica: Replica, wanted: Iterable[Object]) -> tuple[Write, ...]:
    """Deletions of what an earlier plan needed beside its pods, such as its PodGroup."""
    kept = {identity(obj) for obj in wanted}
    return tuple(children.deletion(o) for o in replica.others if identity(o) not in kept and not terminating(o))


def _placed(record: Record, placement: Placement) -> Record:
    return replace(record, nodes=placement.nodes, score=round(placement.score, 4), misses=tuple(placement.misses))


def _same_group(before: Record, after: Record) -> bool:
    return (before.plan, before.attempt) == (after.plan, after.attempt)


def _same_shape(before: Revision | None, after: Revision) -> bool:
    """Whether slots mean the same to the network, so that a replica may stay where its weights are cached."""
    return before is not None and (
        before.plan.degrees,
        before.plan.rank_order,
        before.plan.slots,
        before.spec.topology,
    ) == (after.plan.degrees, after.plan.rank_order, after.plan.slots, after.spec.topology)


def _then(outcome: Outcome, writes: tuple[Write, ...]) -> Outcome:
    return replace(outcome, stages=(*outcome.stages, writes))


def _whole_second(time: datetime) -> datetime:
    """The next whole second: what a record can hold."""
    return time if time.microsecond == 0 else time.replace(microsecond=0) + timedelta(seconds=1)
