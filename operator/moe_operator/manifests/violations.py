"""What of a manifest cannot be rendered, though its plan stands: told before any child is written."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moe_operator import engines
from moe_operator.engines import Images
from moe_operator.manifests.merge import MergeError, merge
from moe_operator.manifests.render import CONTAINER, Child, rendered_slots
from moe_operator.manifests.weights import weights
from moe_plan.errors import Violation
from moe_plan.plan import Plan
from moe_plan.spec import Resources, Spec

TEMPLATE = "spec.runtime.podTemplate"
_OWNED: list[Mapping[str, Any]] = tomllib.loads(Path(__file__).with_name("owned.toml").read_text())["field"]


def violations(deployment: Mapping[str, Any], plan: Plan, images: Images = ()) -> tuple[Violation, ...]:
    """Everything of the manifest's engine, source, resources and podTemplate that no pod can be made from.

    `images` are the operator's own, where a manifest names none.
    """
    spec = Spec.model_validate_json(json.dumps(deployment["spec"]))
    gpu = plan.hardware.resource_name
    found = [*engines.violations(plan, spec, images), *_source(plan, spec), *_resources(spec.runtime.resources, gpu)]
    if not found and spec.runtime.pod_template:
        found += _template(deployment, plan, spec.runtime.pod_template)
    return tuple(found)


def _source(plan: Plan, spec: Spec) -> Iterator[Violation]:
    try:
        model = weights(plan.model.source, plan.model.revision)
    except ValueError as error:
        yield Violation("spec.model.source", "InvalidSource", str(error))
        return
    if spec.model.source_secret_ref is not None and (model is None or not model.fetched):
        message = f"nothing is fetched from {plan.model.source}: only hf:// and s3:// need a Secret"
        yield Violation("spec.model.sourceSecretRef", "InvalidSource", message, "remove it")


def _resources(resources: Resources, gpu: str) -> Iterator[Violation]:
    for name in ("requests", "limits"):
        if gpu in getattr(resources, name):
            message = f"{gpu} follows from the layout: one for each rank of a slot"
            yield Violation(f"spec.runtime.resources.{name}", "OwnedByOperator", message, "remove it")


def _template(deployment: Mapping[str, Any], plan: Plan, template: Mapping[str, Any]) -> Iterator[Violation]:
    for key in sorted(template.keys() - {"metadata", "spec"}):
        yield Violation(f"{TEMPLATE}.{key}", "UnknownField", "a pod template has metadata and spec")
        return
    for pod in rendered_slots(deployment, plan):
        try:
            merged = merge(pod, template)
        except MergeError as error:
            yield Violation(f"{TEMPLATE}.{error.path}", "InvalidOverride", error.why)
            return
        found = list(_overridden(pod, merged, plan.hardware.resource_name))
        if found:
            yield from found
            return


def _overridden(pod: Child, merged: Child, gpu: str) -> Iterator[Violation]:
    """Fields of the operator that the podTemplate has changed."""
    for field in _OWNED:
        path = field["path"]
        if _at(pod, path) != _at(merged, path):
            instead = field.get("instead", "")
            remedy = f"use {instead}" if instead else "remove it"
            yield Violation(f"{TEMPLATE}.{'.'.join(path)}", "OwnedByOperator", "is the operator's to set", remedy)
    labels = _at(merged, ("metadata", "labels")) or {}
    for key, value in pod["metadata"]["labels"].items():
        if labels.get(key) != value:
            where = f"{TEMPLATE}.metadata.labels"
            yield Violation(where, "OwnedByOperator", f"{key} is the operator's to set", "remove it")
    yield from _container(merged, gpu, _amount(pod, gpu))


def _container(merged: Child, gpu: str, amount: str | None) -> Iterator[Violation]:
    if not any(container["name"] == CONTAINER for container in _at(merged, ("spec", "containers")) or ()):
        yield Violation(f"{TEMPLATE}.spec.containers", "OwnedByOperator", f"container {CONTAINER} must stay")
    elif _amount(merged, gpu) != amount:
        message = f"{gpu} of container {CONTAINER} follows from the layout: one for each rank of a slot"
        yield Violation(f"{TEMPLATE}.spec.containers", "OwnedByOperator", message, "remove it")


def _amount(pod: Child, resource: str) -> str | None:
    """Limit of the runtime's container."""
    container = next(container for container in pod["spec"]["containers"] if container["name"] == CONTAINER)
    return _at(container, ("resources", "limits", resource))  # type: ignore[no-any-return]  # JSON


def _at(obj: Any, path: tuple[str, ...] | list[str]) -> Any:
    for name in path:
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    return obj
