"""Children as they should be against children as they are: what to apply, and whose names are taken."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moe_operator.manifests import render
from moe_operator.reconcile import objects
from moe_operator.reconcile.compare import within
from moe_operator.reconcile.model import Object, View, Write
from moe_operator.reconcile.objects import (
    PLAN_KEY,
    RENDERED,
    Identity,
    annotations,
    identity,
    namespace,
    owned,
    terminating,
)
from moe_operator.reconcile.record import Record
from moe_operator.reconcile.revisions import REMEMBERED, Revision
from moe_plan.spec import API_VERSION, KIND


@dataclass(frozen=True, slots=True)
class Observed:
    """Objects of the deployment's namespace that bear names of interest."""

    deployment: Object
    by_identity: Mapping[Identity, Object]

    @property
    def mine(self) -> tuple[Object, ...]:
        """Those that are the deployment's."""
        return tuple(obj for obj in self.by_identity.values() if owned(obj, self.deployment))

    def taken(self, wanted: Iterable[Object]) -> list[Object]:
        """Objects that bear a wanted child's name and are not the deployment's."""
        found = (self.by_identity.get(identity(obj)) for obj in wanted)
        return [obj for obj in found if obj is not None and not owned(obj, self.deployment)]

    def missing(self, wanted: Iterable[Object]) -> tuple[Write, ...]:
        """Writes that make wanted children as they should be: none for those that are, nor over what is not ours."""
        return tuple(Write("apply", obj) for obj in wanted if self._differs(obj))

    def _differs(self, wanted: Object) -> bool:
        here = self.by_identity.get(identity(wanted))
        if here is None:
            return True
        if terminating(here) or not owned(here, self.deployment):
            return False
        return annotations(here).get(RENDERED) != annotations(wanted)[RENDERED] or not within(wanted, here)


def observe_objects(view: View) -> Observed:
    """All that a view shows of the deployment's namespace."""
    here = namespace(view.deployment)
    found = {identity(pod): pod for pod in view.pods if namespace(pod) == here}
    return Observed(view.deployment, found | {identity(child): child for child in view.children})


def deployment_children(deployment: Object, revision: Revision, held: Mapping[str, Object]) -> tuple[Object, ...]:
    """ServiceAccount, Service and plan. A plan that is held already keeps its data, since it is immutable."""
    wanted: list[Object] = json.loads(_deployment_children(_metadata(deployment), revision))
    return tuple({**obj, "data": held[objects.name(obj)]["data"]} if _is_held(obj, held) else obj for obj in wanted)


def replica_children(deployment: Object, revision: Revision, index: int, served: frozenset[str]) -> tuple[Object, ...]:
    """What a replica has beside its record and pods."""
    return tuple(json.loads(_replica_children(_metadata(deployment), revision, index, served)))


def record_holder(deployment: Object, revision: Revision, index: int, record: Record) -> Object:
    """The ConfigMap that holds a record."""
    return _stamped(render.record(revision.deployment(deployment), revision.plan, index, record.data()))


def pods(
    deployment: Object, revision: Revision, index: int, attempt: int, record: Record, served: frozenset[str]
) -> tuple[Object, ...]:
    """All pods of one attempt, which join the group of the record's."""
    given, nodes = revision.deployment(deployment), list(record.nodes)
    made = render.pods(given, revision.plan, index, attempt, nodes, served, record.attempt, revision.images)
    return tuple(_stamped(pod) for pod in made)


def deletion(obj: Object) -> Write:
    """Delete an object, and not a successor of the same name."""
    return Write("delete", _reference(obj))


def forced_deletion(pod: Object) -> Write:
    """Delete a pod without waiting for its node, which is gone."""
    return Write("delete", _reference(pod) | {"gracePeriodSeconds": 0})


def plans_held(mine: Iterable[Object]) -> dict[str, Object]:
    """ConfigMaps of plans by name."""
    return {
        objects.name(obj): obj for obj in mine if obj.get("kind") == "ConfigMap" and PLAN_KEY in (obj.get("data") or {})
    }


@lru_cache(maxsize=REMEMBERED)
def _deployment_children(metadata: str, revision: Revision) -> str:
    """As text, which takes an eighth of the memory of objects."""
    plan = json.dumps(revision.plan.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return _remembered(render.deployment_children(_given(metadata, revision), revision.plan, plan))


@lru_cache(maxsize=REMEMBERED)
def _replica_children(metadata: str, revision: Revision, index: int, served: frozenset[str]) -> str:
    return _remembered(render.replica_children(_given(metadata, revision), revision.plan, index, served=served))


def _remembered(rendered: Iterable[Object]) -> str:
    return json.dumps([_stamped(obj) for obj in rendered], separators=(",", ":"))


def _metadata(deployment: Object) -> str:
    """What children take of the deployment's metadata."""
    return json.dumps({key: deployment["metadata"].get(key) for key in ("name", "namespace", "uid")})


def _given(metadata: str, revision: Revision) -> Object:
    return revision.deployment({"apiVersion": API_VERSION, "kind": KIND, "metadata": json.loads(metadata)})


def _is_held(obj: Object, held: Mapping[str, Object]) -> bool:
    return obj["kind"] == "ConfigMap" and objects.name(obj) in held


def _reference(obj: Object) -> dict[str, Any]:
    metadata = {"name": objects.name(obj), "namespace": namespace(obj), "uid": objects.uid(obj)}
    return {
        "apiVersion": obj.get("apiVersion") or "v1",
        "kind": obj.get("kind") or "Pod",
        "metadata": metadata,
    }


def _stamped(obj: Object) -> Object:
    """The object with a digest of itself: what we leave out later is then seen as a change too."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    metadata = {**obj["metadata"], "annotations": {**annotations(obj), RENDERED: digest}}
    return {**obj, "metadata": metadata}
