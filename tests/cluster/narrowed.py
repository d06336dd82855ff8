"""Seed S1 on a real cluster without GPUs: its layout with the widths and weights of the quickstart's model."""

import json
from pathlib import Path
from typing import Any

import yaml
from images import ROOT

from moe_plan.manifest import parse_deployment
from moe_plan.narrow import rehearse_checkpoint
from moe_plan.planner import make_plan

MODEL = ROOT / "examples" / "quickstart" / "model"


def narrowed(checkpoint: Path, **parallelism: int) -> dict[str, Any]:
    """The manifest, on CPU ranks that each count as a GPU, with other degrees where given."""
    manifest = yaml.safe_load((ROOT / "examples" / "seed-s1.yaml").read_text())
    manifest["spec"]["parallelism"] |= parallelism
    seed = parse_deployment(manifest)
    config = json.loads((checkpoint / "config.json").read_text())
    rehearsal = rehearse_checkpoint(seed, make_plan(seed), config)
    found: dict[str, Any] = rehearsal.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    found["spec"]["model"]["source"] = f"file://{checkpoint}"
    found["spec"]["hardware"]["resourceName"] = "nvidia.com/gpu"
    return found | {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
