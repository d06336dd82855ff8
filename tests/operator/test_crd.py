import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from moe_command import Moe

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "moe-operator.dev_moedeployments.yaml"
MANIFESTS = [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "examples" / "quickstart" / "moedeployment.yaml"]
"""Those of GitOps are for other tools too, and applied by their own tests."""
CLIENT_SIDE_APPLY_BYTES = 200_000
"""An annotation holds 262,144 bytes, and client-side apply keeps the object in one."""

VALID: dict[str, Any] = {
    "apiVersion": "moe-operator.dev/v1alpha1",
    "kind": "MoEDeployment",
    "metadata": {"name": "crd"},
    "spec": {
        "model": {"architecture": "qwen3-235b-a22b"},
        "hardware": {"accelerator": "h200-sxm", "gpusPerNode": 8},
        "parallelism": {"ep": 64, "tp": 2},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """VALID with one field set, or removed for None."""
    manifest = copy.deepcopy(VALID)
    *parents, last = path.split(".")
    node = manifest
    for name in parents:
        node = node.setdefault(name, {})
    if value is None:
        node.pop(last)
    else:
        node[last] = value
    return manifest


def test_the_committed_crd_is_the_generated_one(moe: Moe) -> None:
    assert moe("crd").stdout == CRD.read_text(), "run `make crds`"


def test_the_crd_is_small_enough_for_client_side_apply() -> None:
    assert len(json.dumps(yaml.safe_load(CRD.read_text()))) < CLIENT_SIDE_APPLY_BYTES


def test_every_field_is_described() -> None:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert undescribed(schema["properties"]["spec"], "spec") == []
    assert undescribed(schema["properties"]["status"], "status") == []


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    here = [] if schema.get("description") else [path]
    below = [*schema.get("properties", {}).items()]
    return here + [name for key, child in below for name in undescribed(child, f"{path}.{key}")]


def test_every_list_map_and_text_is_bounded() -> None:
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert [path for path, node in nodes(schema["properties"]["spec"], "spec") if unbounded(node)] == []


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema within a schema, with its path."""
    yield path, schema
    for name, field in (schema.get("properties") or {}).items():
        yield from nodes(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from nodes(schema[inner], f"{path}[]")


def unbounded(schema: dict[str, Any]) -> bool:
    """Whether a value may be as long as it likes; free-form objects are bounded by the API server alone."""
    bounds = {"array": {"maxItems"}, "string": {"maxLength", "enum"}}
    if "additionalProperties" in schema:
        return "maxProperties" not in schema
    kind = schema.get("type", "")
    return kind in bounds and not schema.keys() & bounds[kind]


@pytest.mark.slow
@pytest.mark.parametrize("example", MANIFESTS, ids=lambda path: path.stem)
def test_kubectl_applies_each_example(plane: ControlPlane, example: Path) -> None:
    done = plane.kubectl("apply", "--dry-run=server", "-f", str(example))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.parallelism.ep", 0, "spec.parallelism.ep: Invalid value: 0: must be an integer of at least 1, or auto"),
        ("spec.parallelism.ep", "many", 'spec.parallelism.ep: Invalid value: "many": must be an integer of at least 1, or auto'),
        ("spec.parallelism.ep", None, "spec.parallelism.ep: Required value"),
        ("spec.parallelism.ep", 5, "spec: Invalid value: ep·tp·pp must be below hardware.gpusPerNode or a multiple of it"),
        ("spec.parallelism.rankOrder", ["pp", "ep", "ep"], "spec.parallelism: Invalid value: rankOrder must name pp, ep and tp once each"),
        ("spec.parallelism.expertLoadsFrom", {"configMapKeyRef": {"name": "Loads", "key": "k"}}, "name must be the name of an object"),
        ("spec.parallelism.expertLoadsFrom", {"configMapKeyRef": {"name": "loads"}}, "configMapKeyRef.key: Required value"),
        ("spec.model.config", {"a": 1}, "spec.model: Invalid value: needs exactly one of architecture, config, configFrom"),
        ("spec.model.architecture", None, "spec.model: Invalid value: needs exactly one of architecture, config, configFrom"),
        ("spec.model.dtype", "fp8", 'spec.model.dtype: Unsupported value: "fp8"'),
        ("spec.model.source", "ftp://x", "spec.model.source: Invalid value"),
        ("spec.hardware.accelerator", None, "spec.hardware: Invalid value: needs exactly one of accelerator, spec"),
        ("spec.hardware.gpusPerNode", "8", "spec.hardware.gpusPerNode: Invalid value"),
        ("spec.hardware.memoryReserve", "120%", "spec.hardware.memoryReserve: Invalid value"),
        ("spec.replicas", -1, "spec.replicas: Invalid value: -1"),
        ("spec.rollout.maxUnavailable", 0, "rollout.maxSurge and rollout.maxUnavailable cannot both be 0"),
        ("spec.failure.backoff", "10", "spec.failure.backoff: Invalid value"),
        ("spec.serving.port", 70000, "spec.serving.port: Invalid value: 70000"),
        ("spec.paralelism", {}, 'unknown field "spec.paralelism"'),
    ],
)  # fmt: skip
def test_kubectl_refuses_what_a_schema_can_refuse(plane: ControlPlane, path: str, value: Any, message: str) -> None:
    done = plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(changed(path, value)))
    assert done.returncode == 1
    assert message in done.stderr.replace('Invalid value: "object": ', "Invalid value: ").replace(
        'Invalid value: "integer": ', "Invalid value: "
    )


@pytest.mark.slow
def test_kubectl_refuses_expert_loads_for_an_engine_that_deals_experts_itself(plane: ControlPlane) -> None:
    manifest = changed("spec.parallelism.expertLoadsFrom", {"configMapKeyRef": {"name": "loads", "key": "loads.json"}})
    assert plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest)).returncode == 0
    manifest["spec"]["runtime"] = {"engine": "vllm"}
    done = plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    assert "parallelism.expertLoadsFrom needs runtime.engine moe" in done.stderr


@pytest.mark.slow
def test_kubectl_explain_tells_what_a_degree_is(plane: ControlPlane) -> None:
    text = plane.kubectl("explain", "moedeployment.spec.parallelism").stdout
    assert "Expert-parallel degree: shards over which experts and requests are dealt" in " ".join(text.split())


@pytest.mark.slow
def test_the_resource_name_cannot_change(plane: ControlPlane) -> None:
    manifest = changed("metadata.name", "immutable")
    plane.apply(manifest)
    manifest["spec"]["hardware"]["resourceName"] = "amd.com/gpu"
    done = plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    plane.kubectl("delete", "moed", "immutable")  # an operator of a later test would take its nodes
    assert "is immutable: pods of two resources cannot share a placement" in done.stderr
