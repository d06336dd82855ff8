"""Manifests that tests write: the least there must be, and what they say beside it."""

from typing import Any

from moe_plan.manifest import parse_deployment
from moe_plan.spec import API_VERSION, KIND, MoEDeployment

SMALL_MODEL: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "head_dim": 64,
    "intermediate_size": 2048,
    "moe_intermediate_size": 4096,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 4096,
    "vocab_size": 8192,
}
"""A config.json of which every layout of some GPUs can be looked at one by one."""


def document(name: str = "mixtral", **sections: Any) -> dict[str, Any]:
    """A manifest as its file says it: of mixtral-8x7b on eight H100, but for the sections given."""
    spec = {
        "model": {"architecture": "mixtral-8x7b"},
        "hardware": {"accelerator": "h100-sxm"},
        "parallelism": {"ep": 8},
        **sections,
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def manifest(
    parallelism: dict[str, Any],
    model: dict[str, Any] | str = "qwen3-30b-a3b",
    accelerator: str = "h200-sxm",
    name: str = "under-test",
    **sections: Any,
) -> MoEDeployment:
    """A manifest as it is parsed; the model is one of the catalogue or what spec.model says."""
    given = {
        "model": {"architecture": model} if isinstance(model, str) else model,
        "hardware": {"accelerator": accelerator},
        "parallelism": parallelism,
        **sections,
    }
    return parse_deployment(document(name, **given))
