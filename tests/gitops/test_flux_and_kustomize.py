"""Kustomize builds what the planner accepts, and Flux is told to wait for it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import binaries
import pytest
import yaml

from moe_plan.manifest import parse_deployment
from moe_plan.planner import make_plan

ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "examples" / "gitops"

Object = dict[str, Any]
Found = dict[tuple[str, str], Object]

pytestmark = pytest.mark.slow  # the first use builds kubectl


@pytest.fixture(scope="module")
def kubectl() -> Path:
    return binaries.binaries() / "kubectl"


def build(kubectl: Path, folder: Path) -> Found:
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize(("overlay", "name"), [("staging", "qwen3-30b-staging"), ("production", "prod-qwen3-30b")])
def test_an_overlay_makes_a_deployment_that_has_a_plan(kubectl: Path, overlay: str, name: str) -> None:
    found = build(kubectl, GITOPS / "kustomize" / "overlays" / overlay)
    deployment = found["MoEDeployment", name]
    reference = deployment["spec"]["model"]["configFrom"]["configMapKeyRef"]
    config = found["ConfigMap", reference["name"]]
    assert reference["name"] not in ("model-config", f"prod-{name}"), "a name without a hash never rolls out"
    plan = make_plan(parse_deployment(deployment), json.loads(config["data"][reference["key"]]))
    assert plan.warnings == ()


def test_names_image_and_replicas_of_a_deployment_are_known_to_kustomize(kubectl: Path) -> None:
    found = build(kubectl, GITOPS / "kustomize" / "overlays" / "production")
    spec = found["MoEDeployment", "prod-qwen3-30b"]["spec"]
    assert ("Secret", spec["serving"]["apiKeySecretRef"]["name"]) in found
    assert spec["replicas"] == 3
    assert spec["runtime"]["image"].startswith("registry.example.com/moe-runtime@sha256:")


def test_the_model_of_the_example_is_the_catalogues() -> None:
    published = json.loads((ROOT / "operator/moe_plan/catalogue/models/qwen3-30b-a3b.json").read_text())["config"]
    assert json.loads((GITOPS / "kustomize" / "base" / "config.json").read_text()) == published


def test_flux_waits_for_the_operator_and_for_the_models() -> None:
    objects = list(yaml.safe_load_all((GITOPS / "flux" / "kustomizations.yaml").read_text()))
    named = {obj["metadata"]["name"]: obj["spec"] for obj in objects}
    assert named["models"]["dependsOn"] == [{"name": "moe-operator"}]
    source = yaml.safe_load((GITOPS / "flux" / "sources.yaml").read_text())
    for spec in named.values():
        assert spec["wait"]
        assert (ROOT / spec["path"]).is_dir()
        assert spec["sourceRef"] == {"kind": source["kind"], "name": source["metadata"]["name"]}


def test_flux_installs_the_chart_of_this_repository(kubectl: Path) -> None:
    found = build(kubectl, GITOPS / "flux" / "operator")
    chart = found["HelmRelease", "moe-operator"]["spec"]["chart"]["spec"]
    assert (ROOT / chart["chart"] / "Chart.yaml").is_file()
    assert chart["sourceRef"]["name"] == "moe-operator"
