"""Revisions: a plan together with the spec it was made of, today's and those that replicas still run."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from moe_operator.engines import Images
from moe_operator.manifests import violations
from moe_operator.manifests.merge import merge
from moe_operator.manifests.render import plan_name, rendered_slots
from moe_operator.placement import pod_requests
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import PLAN_KEY
from moe_plan.errors import ManifestError, Violation
from moe_plan.loads import parse_loads
from moe_plan.manifest import parse_deployment
from moe_plan.plan import Plan
from moe_plan.planner import make_plan, plan_hash
from moe_plan.spec import API_VERSION, KIND, Spec
from moe_plan.subject import LOADS_FIELD

SPEC_KEY = "spec.json"
REMEMBERED = 1024
"""Proofs and parsed plans kept in memory: of as many deployments as one operator is meant for."""

Requests = tuple[tuple[str, int], ...]
"""Amounts by resource name, in order."""


@dataclass(frozen=True, eq=False)
class Revision:
    """What the pods of a replica are made from."""

    plan: Plan
    spec: Spec
    written: Mapping[str, Any]
    """The spec as it was written."""
    images: Images
    """The operator's own, where the spec names none."""

    @property
    def hash(self) -> str:
        """Hash of all that decides pods."""
        return self.plan.hash

    def deployment(self, today: Object) -> dict[str, Any]:
        """The deployment with the spec of this revision, for rendering."""
        return {**today, "spec": self.written}


def prove(
    deployment: Object,
    config: Mapping[str, Any] | None,
    loads: Mapping[str, Any] | None = None,
    images: Images = (),
) -> Revision:
    """The revision of the spec as it is now, with what it names in ConfigMaps; the proof is remembered.

    Raises ManifestError when there is no plan, or when no pods can be made from it.
    """
    metadata = {key: deployment["metadata"][key] for key in ("name", "namespace") if key in deployment["metadata"]}
    document = {key: value for key, value in deployment.items() if key != "status"} | {"metadata": metadata}
    named = (None if held is None else _json(held) for held in (config, loads))
    proved = _prove(_json(document), *named, images)
    if isinstance(proved, ManifestError):
        raise ManifestError(proved.violations, proved.nearest)
    return proved


@lru_cache(maxsize=REMEMBERED)
def _prove(document: str, config: str | None, loads: str | None, images: Images) -> Revision | ManifestError:
    data = json.loads(document)
    try:
        deployment = parse_deployment(data)
        measured = None if loads is None else parse_loads(loads, LOADS_FIELD)
        plan = make_plan(deployment, None if config is None else json.loads(config), loads=measured)
    except ManifestError as error:
        return ManifestError(error.violations, error.nearest)  # without the traceback, which would hold all its frames
    revision = Revision(plan, deployment.spec, data["spec"], images)
    named = {**data, "metadata": {**data["metadata"], "uid": ""}}
    found = violations(named, plan, images) or _unreadable_requests(revision)
    return ManifestError(found) if found else revision


def _unreadable_requests(revision: Revision) -> tuple[Violation, ...]:
    try:
        slot_requests(revision)
    except (ValueError, TypeError, AttributeError) as error:
        message = f"the pods' resources cannot be read: {error}"
        return (
            Violation("spec.runtime", "InvalidResources", message, "write amounts as Kubernetes does, such as 500m"),
        )
    return ()


@lru_cache(maxsize=REMEMBERED)
def slot_requests(revision: Revision) -> Requests:
    """What one slot takes of its node, as its rendered pod says. Raises ValueError for an amount that is none."""
    metadata = {"name": revision.plan.name, "namespace": "default", "uid": ""}
    given = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": revision.written}
    pod = rendered_slots(given, revision.plan)[0]
    return ordered(pod_requests(merge(pod, revision.spec.runtime.pod_template)))


def ordered(requests: Mapping[str, int]) -> Requests:
    """Amounts as something that can be a key."""
    return tuple(sorted(requests.items()))


def known_revisions(
    deployment: Object, children: Iterable[Object], current: Revision | None, images: Images
) -> dict[str, Revision]:
    """Today's revision and those of the plan ConfigMaps, by hash. One that cannot be read any more is left out."""
    found = {} if current is None else {current.hash: current}
    todays = None if current is None else plan_name(deployment, current.plan)
    for child in children:
        data = child.get("data") or {}
        if child.get("kind") == "ConfigMap" and PLAN_KEY in data and child["metadata"]["name"] != todays:
            written = data.get(SPEC_KEY) or _json(deployment.get("spec"))
            revision = _read(deployment["metadata"]["name"], data[PLAN_KEY], written, images)
            if revision is not None:
                found.setdefault(revision.hash, revision)
    return found


def keeping_map(current: Revision, held: Iterable[Revision], told: str) -> Revision:
    """Today's revision with the expert map of one that pods were made from, where nothing but its loads has changed.

    So loads that change under the same name replace no pods; they are used once their reference changes, or with
    whatever else makes another plan. `told` is the hash in the status: of several such revisions that one is kept.
    """
    alike = [revision for revision in held if _without_map(revision) == _without_map(current)]
    kept = min(alike, key=lambda revision: (revision.hash != told, revision.hash), default=current)
    return current if kept.hash == current.hash else _with_map(current, kept)


@lru_cache(maxsize=REMEMBERED)
def _without_map(revision: Revision) -> tuple[str, object]:
    """What a revision is beside the map of its experts: its hash without that, and whence its loads are."""
    experts = revision.plan.experts.model_copy(update={"exceptions": {}})
    plan = revision.plan.model_copy(update={"experts": experts})
    return plan_hash(plan, revision.spec), revision.spec.parallelism.expert_loads_from


@lru_cache(maxsize=REMEMBERED)
def _with_map(current: Revision, kept: Revision) -> Revision:
    since = kept.plan.expert_loads.since if kept.plan.expert_loads is not None else "another time"
    warning = (
        f"{LOADS_FIELD.removeprefix('spec.')}: the loads have changed, and the replicas keep the map of experts made "
        f"from those since {since}; refer to the new ones by another name or key to roll them out"
    )
    kept_parts = {"hash": kept.hash, "experts": kept.plan.experts, "expert_loads": kept.plan.expert_loads}
    plan = current.plan.model_copy(update={**kept_parts, "warnings": (*current.plan.warnings, warning)})
    return Revision(plan, current.spec, current.written, current.images)


@lru_cache(maxsize=REMEMBERED)
def _read(name: str, plan: str, written: str, images: Images) -> Revision | None:
    try:
        spec = json.loads(written)
        manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}}
        deployment = parse_deployment({**manifest, "spec": spec})
        return Revision(Plan.model_validate_json(plan), deployment.spec, spec, images)
    except (ValidationError, ManifestError, ValueError):
        return None


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
