"""The decision: from everything observed of a deployment to the writes that bring it nearer to its spec, and its status.

1. Prove the spec. While it has no plan the replicas that run are looked after as they are.
2. Say which replicas to make, to replace and to remove (`rollout`), and take each a step on (`lifecycle`).
3. Order the writes so that an operator that dies after any of them leaves something the next one can finish.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, zip_longest

from moe_operator.manifests import child_name, gang_violations
from moe_operator.reconcile import children, lifecycle, objects
from moe_operator.reconcile.children import Observed, observe_objects
from moe_operator.reconcile.events import events_between
from moe_operator.reconcile.lifecycle import PLACE_AGAIN_S, Outcome, Scene
from moe_operator.reconcile.model import Decision, Object, View, Write
from moe_operator.reconcile.objects import PAUSED, annotations, terminating
from moe_operator.reconcile.picture import Picture
from moe_operator.reconcile.placing import Ground
from moe_operator.reconcile.replicas import SHORT, Replica, observe
from moe_operator.reconcile.revisions import Revision, keeping_map, known_revisions, prove
from moe_operator.reconcile.rollout import Standing, next_step
from moe_operator.reconcile.summary import summarise
from moe_plan.errors import ManifestError, Violation
from moe_plan.subject import LOADS_FIELD

TOGETHER = 4
"""Replicas whose writes go out at the same time; the next four follow while the scheduler binds these."""
AT_ONCE = 8
"""New replicas of one decision: the first are written while there is no need yet to render the last."""


def decide(view: View) -> Decision:
    """What to do now. The same view gives the same decision; one in which all is as wanted gives an empty one."""
    if terminating(view.deployment):
        return Decision()  # garbage collection deletes the children by their ownerReferences
    observed = observe_objects(view)
    refusal, current = _proof(view, observed)
    scene = _scene(view, observed, current)
    main, shared = _shared(scene, current)
    taken = tuple(observed.taken(shared))
    gangless = gang_violations(current.spec.scheduling, view.served) if current is not None else ()
    outcomes = _outcomes(scene, None if taken or gangless else current)
    stages = _in_order(observed.missing(shared), outcomes, _leftover_plans(scene, main, outcomes))
    paused = annotations(view.deployment).get(PAUSED) == "true"
    picture = Picture(
        view=view,
        current=current,
        main=main,
        refusal=refusal,
        gangless=ManifestError(gangless) if gangless else None,
        outcomes=tuple(outcomes),
        taken=tuple(chain(taken, *(outcome.taken for outcome in outcomes))),
        unfinished=bool(stages),
        paused=paused,
    )
    status = summarise(picture)
    before = view.deployment.get("status") or {}
    return Decision(
        stages=() if paused else stages,
        status=None if status == before else status,
        events=tuple(events_between(before, status)),
        wake_after_s=min(_wakes(outcomes, picture), default=None),
    )


def _proof(view: View, observed: Observed) -> tuple[ManifestError | None, Revision | None]:
    """The spec's revision, or why there is none."""
    missing = tuple(_missing(view))
    if missing:
        return ManifestError(missing), None
    try:
        proved = prove(view.deployment, view.config, view.expert_loads, view.images)
    except ManifestError as error:
        return error, None
    if proved.spec.parallelism.expert_loads_from is None:
        return None, proved
    held = known_revisions(view.deployment, observed.mine, None, view.images).values()
    return None, keeping_map(proved, held, _told_hash(view.deployment))


def _told_hash(deployment: Object) -> str:
    """Hash of the plan in the status."""
    return str(((deployment.get("status") or {}).get("plan") or {}).get("hash") or "")


def _missing(view: View) -> Iterator[Violation]:
    """What the spec names and is not there."""
    spec, remedy = view.deployment.get("spec") or {}, "create it; it is looked for again as soon as it changes"
    config = (spec.get("model") or {}).get("configFrom")
    loads = (spec.get("parallelism") or {}).get("expertLoadsFrom")
    if isinstance(config, Mapping) and view.config is None:
        yield Violation("spec.model.configFrom", "ConfigMissing", _no_key(config), remedy)
    if isinstance(loads, Mapping) and view.expert_loads is None:
        yield Violation(LOADS_FIELD, "ExpertLoadsMissing", _no_key(loads), remedy)


def _no_key(source: Mapping[str, object]) -> str:
    reference = source.get("configMapKeyRef")
    named = reference if isinstance(reference, Mapping) else {}
    return f"ConfigMap {named.get('name')} has no key {named.get('key')} that holds a JSON object"


def _scene(view: View, observed: Observed, current: Revision | None) -> Scene:
    mine = observed.mine
    revisions = known_revisions(view.deployment, mine, current, view.images)
    replicas = observe(view, mine, revisions)
    return Scene(view, observed, revisions, replicas, Ground(view, replicas), current.spec if current else None)


def _outcomes(scene: Scene, current: Revision | None) -> list[Outcome]:
    """A step of each replica. Those that go come first, since they make room; then those that are, then new ones."""
    replicas = scene.replicas
    if current is None:
        kept = [replica for replica in replicas.values() if replica.record is not None]
        return [lifecycle.advance(scene, replica) for replica in kept]
    standing = [_standing(scene, replica, current) for replica in replicas.values() if replica.record is not None]
    step = next_step(standing, current.spec.replicas, current.spec.rollout)
    gone = {i for i, r in replicas.items() if r.record is None and i not in (*step.create, *step.surge)}
    outcomes = {i: lifecycle.remove(scene, replicas[i]) for i in sorted({*step.remove, *gone})}
    for replica in replicas.values():
        if replica.record is not None and replica.index not in (*outcomes, *step.replace):
            outcomes[replica.index] = lifecycle.advance(scene, replica)
    for index in step.replace:
        outcomes[index] = lifecycle.replace_with(scene, replicas[index], _target(scene, index, current))
    for index in step.create:
        if sum(map(_launched, outcomes.values())) < AT_ONCE:
            outcomes[index] = lifecycle.begin(scene, _absent(scene, index), _target(scene, index, current))
    for index in step.surge:
        outcomes[index] = lifecycle.begin(scene, _absent(scene, index), current, surge=True)
    return [outcomes[index] for index in sorted(outcomes)]


def _launched(outcome: Outcome) -> bool:
    """Whether a replica is given its first nodes."""
    return outcome.replica.record is not None and outcome.replica.record.attempt == 1 and any(outcome.stages)


def _wakes(outcomes: Iterable[Outcome], picture: Picture) -> Iterator[float]:
    """Seconds after which it is worth to look again without any event."""
    yield from chain.from_iterable(outcome.wake_after_s for outcome in outcomes)
    if picture.waiting:
        yield 0.0
    elif picture.taken or picture.gangless is not None:
        yield PLACE_AGAIN_S


def _standing(scene: Scene, replica: Replica, current: Revision) -> Standing:
    assert replica.record is not None
    return Standing(
        index=replica.index,
        current=replica.record.plan == _target(scene, replica.index, current).hash,
        serving=replica.serving,
        served=replica.served,
        surge=replica.record.surge,
    )


def _target(scene: Scene, index: int, current: Revision) -> Revision:
    """What a replica shall run: below the partition what it runs already, or what its neighbours there run."""
    if index >= current.spec.rollout.partition:
        return current
    own = scene.replicas.get(index)
    if own is not None and own.record is not None:
        return own.revision or current
    held = (r.revision for i, r in scene.replicas.items() if i < current.spec.rollout.partition and r.revision)
    return next((revision for revision in held if revision.hash != current.hash), current)


def _absent(scene: Scene, index: int) -> Replica:
    return scene.replicas.get(index) or Replica(index, endpoint=scene.view.endpoints.get(index))


def _shared(scene: Scene, current: Revision | None) -> tuple[Revision | None, tuple[Object, ...]]:
    """The revision that speaks for the deployment, and what all replicas share, as it should be."""
    known = (replica.revision for replica in scene.replicas.values() if replica.revision is not None)
    main = current or next(known, None)
    if main is None:
        return None, ()
    held = children.plans_held(scene.observed.mine)
    return main, children.deployment_children(scene.view.deployment, main, held)


def _leftover_plans(scene: Scene, main: Revision | None, outcomes: Iterable[Outcome]) -> tuple[Write, ...]:
    """Deletions of plans that no replica uses, before or after this decision."""
    replicas = chain(scene.replicas.values(), (outcome.replica for outcome in outcomes))
    used = {replica.record.plan for replica in replicas if replica.record is not None}
    if main is not None:
        used.add(main.hash)
    names = {child_name(objects.name(scene.view.deployment), "plan", plan[:SHORT]) for plan in used}
    held = children.plans_held(scene.observed.mine)
    return tuple(children.deletion(obj) for name, obj in held.items() if name not in names and not terminating(obj))


def _in_order(
    shared: tuple[Write, ...], outcomes: Iterable[Outcome], last: tuple[Write, ...]
) -> tuple[tuple[Write, ...], ...]:
    """Stages of all replicas, a few replicas at a time: the scheduler binds the first while the next are written."""
    lanes = [outcome.stages for outcome in outcomes if any(outcome.stages)]
    shifted = [((),) * (number // TOGETHER) + lane for number, lane in enumerate(lanes)]
    columns = [tuple(chain.from_iterable(column)) for column in zip_longest((shared,), *shifted, fillvalue=())]
    made = {objects.identity(write.object) for write in chain.from_iterable(columns) if write.verb == "apply"}
    kept = (tuple(write for write in stage if not _undoes(write, made)) for stage in (*columns, last))
    return tuple(stage for stage in kept if stage)


def _undoes(write: Write, made: Collection[objects.Identity]) -> bool:
    """Whether it deletes what is applied besides: one replica's child that was labelled as another's."""
    return write.verb == "delete" and objects.identity(write.object) in made
