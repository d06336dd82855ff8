"""The answer to an admission review: the planner's verdict as kubectl prints it. Pure: a question in, an answer out.

A change is not refused for what was wrong before it, so that a deployment that an older operator accepted can still be
edited; the same holds for the API server's own validation.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from moe_operator.crd.definition import GROUP
from moe_operator.engines import Images
from moe_operator.reconcile.revisions import prove
from moe_operator.verdict import verdict
from moe_plan.errors import ManifestError, Violation
from moe_plan.spec import KIND
from moe_plan.subject import LOADS_FIELD

API_VERSION = "admission.k8s.io/v1"
ELSEWHERE = "ConfigNotGiven"
"""Code of what a review cannot look into: a config.json in a ConfigMap."""

MOST_TOLD = 32
"""Violations and warnings of one answer."""
LONGEST = 1024
"""Characters of one of them."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

Answer = dict[str, Any]


class ReviewError(ValueError):
    """The question is none: what posted it is not an API server."""


def review(question: Any, images: Images = ()) -> Answer:
    """Judge the object of an AdmissionReview, with the operator's own images of engines.

    Raises ReviewError where there is no object to judge.
    """
    request = _request(question)
    new = _object(request, "object")
    error, warnings = _judge(new, images)
    if error is None:
        return _answer(request, warnings=warnings)
    if request.get("operation") == "UPDATE" and not _added(error, request.get("oldObject"), images):
        as_before = (f"not valid, as before this change: {violation}" for violation in error.violations)
        return _answer(request, warnings=as_before)
    return _answer(request, status=_refusal(error, new))


def unreviewed(question: Any, why: str) -> Answer:
    """Admit what could not be judged, and say so. The operator judges it again. Raises ReviewError likewise."""
    return _answer(_request(question), warnings=(f"not checked before it was stored ({why}); see its status",))


def _request(question: Any) -> Mapping[str, Any]:
    request = question.get("request") if isinstance(question, Mapping) else None
    if not isinstance(request, Mapping) or not isinstance(request.get("uid"), str):
        raise ReviewError(f"this is not an AdmissionReview of {API_VERSION}: request.uid is missing")
    return request


def _object(request: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = request.get(key)
    if not isinstance(found, Mapping) or not isinstance(found.get("metadata"), Mapping):
        raise ReviewError(f"request.{key} is not a Kubernetes object")
    return found


def _judge(manifest: Mapping[str, Any], images: Images) -> tuple[ManifestError | None, tuple[str, ...]]:
    """What is wrong with a manifest, or what its plan warns of."""
    later = tuple(_loads_later(manifest))
    try:
        return None, (*prove(_without_loads(manifest), None, images=images).plan.warnings, *later)
    except ManifestError as error:
        known = tuple(violation for violation in error.violations if violation.code != ELSEWHERE)
        if known:
            return ManifestError(known, error.nearest), ()
        return None, (*(f"{violation.field}: {_checked_later(manifest)}" for violation in error.violations), *later)


def _checked_later(manifest: Mapping[str, Any]) -> str:
    reference = manifest["spec"]["model"]["configFrom"]["configMapKeyRef"]
    return (
        f"the operator checks degrees and memory when it reads ConfigMap {reference['name']}; "
        f"see condition ParallelismValid of {manifest['metadata'].get('name')}"
    )


def _without_loads(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest planned without the measured loads that it names: these are in a ConfigMap."""
    if _loads_named(manifest) is None:
        return manifest
    spec = manifest["spec"]
    parallelism = {key: value for key, value in spec["parallelism"].items() if key != "expertLoadsFrom"}
    return {**manifest, "spec": {**spec, "parallelism": parallelism}}


def _loads_later(manifest: Mapping[str, Any]) -> Iterator[str]:
    name = _loads_named(manifest)
    if name is not None:
        named = manifest["metadata"].get("name")
        yield f"{LOADS_FIELD}: read by the operator from ConfigMap {name}; see condition ParallelismValid of {named}"


def _loads_named(manifest: Mapping[str, Any]) -> str | None:
    """Name of the ConfigMap with the expert loads; None where none is named, or not as it should be."""
    found: Any = manifest.get("spec")
    for step in ("parallelism", "expertLoadsFrom", "configMapKeyRef", "name"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None


def _added(error: ManifestError, old: Any, images: Images) -> set[Violation]:
    """Violations that were not there before."""
    if not isinstance(old, Mapping) or not isinstance(old.get("metadata"), Mapping):
        return set(error.violations)
    before, _ = _judge(old, images)
    return set(error.violations) - set(before.violations if before else ())


def _refusal(error: ManifestError, manifest: Mapping[str, Any]) -> Answer:
    """A Status of Invalid. kubectl prints its causes as a list, other clients its message."""
    causes = [*map(_cause, error.violations[:MOST_TOLD]), *_nearest(error)]
    details = {"group": GROUP, "kind": KIND, "name": str(manifest["metadata"].get("name", "")), "causes": causes}
    message = verdict(ManifestError(error.violations[:MOST_TOLD], error.nearest))
    return {
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": _cut(message, MOST_TOLD * LONGEST),
        "details": details,
    }


def _cause(violation: Violation) -> dict[str, str]:
    sentence = str(violation).removeprefix(f"{violation.field}: ")
    return {"reason": violation.code, "field": violation.field, "message": _cut(sentence, LONGEST)}


def _nearest(error: ManifestError) -> Iterator[dict[str, str]]:
    if error.nearest:
        layouts = "".join(f"\n  {layout}" for layout in error.nearest)
        yield {"reason": "NearestLayouts", "field": "nearest layouts that work", "message": layouts}


def _answer(request: Mapping[str, Any], *, warnings: Iterable[str] = (), status: Answer | None = None) -> Answer:
    response: Answer = {"uid": request["uid"], "allowed": status is None}
    told = [_cut(_CONTROL.sub(" ", warning), LONGEST) for warning in warnings][:MOST_TOLD]
    if told:
        response["warnings"] = told
    if status is not None:
        response["status"] = status
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
