"""The config.json of a family that is not read, as one of a family that is, where its usual fields tell enough.

What costs time and memory is told by fields that most families share, under a few names; what they do not tell (norms,
gates, biases) is a hundredth of it. Whoever reads a config this way says so.
"""

from collections.abc import Mapping
from typing import Any

from moe_plan.config.families import FAMILIES, WRAPPERS
from moe_plan.errors import ManifestError, PlanError, Violation

_NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "num_hidden_layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "num_experts_per_tok": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "moe_topk",
        "moe_top_k",
        "moe_k",
        "top_k_experts",
    ),
    "num_experts": (
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
        "num_routed_experts",
        "moe_num_primary_experts",
    ),
    "moe_intermediate_size": (
        "moe_intermediate_size",
        "expert_intermediate_size",
        "moe_ffn_hidden_size",
        "expert_ffn_hidden_size",
        "ffn_dim",
        "intermediate_size",
    ),
}
"""What an estimate needs, and the names that it has in one family or another."""

_POSITIONS = 1 << 20
"""Positions where the config tells none: an estimate does not depend on them."""


def infer_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The same model as a config of a family that is read, and that family; None when the config's own family is read.

    Raises PlanError with the fields that are missing when there is too little to infer from.
    """
    text = {**config, **_section(config, "text_config")}
    if _is_known(config):
        return None
    found = {name: _first(text, names) for name, names in _NAMES.items()}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        family = str(text.get("model_type", "unnamed"))[:60]
        spelled = ", ".join(f"{name} (or {', '.join(_NAMES[name][1:])})" for name in missing)
        raise PlanError(
            f"config.json of the unknown family {family} has too little to infer its shape: missing {spelled}"
        )
    family = "deepseek_v3" if text.get("kv_lora_rank") else "qwen3_moe"
    positions = _first(text, ("max_position_embeddings", "max_seq_len", "seq_length")) or _POSITIONS
    inferred = {
        **text,
        **found,
        "model_type": family,
        "n_routed_experts": found["num_experts"],
        "max_position_embeddings": positions,
        "intermediate_size": _first(text, ("intermediate_size", "ffn_hidden_size")) or found["moe_intermediate_size"],
    }
    for name in ("text_config", "use_sliding_window", "mlp_only_layers"):
        inferred.pop(name, None)
    return inferred, family


def readable(config: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """A config.json as it can be read, and the family as which it then is if its own is unknown.

    Only a config that names a family and speaks of experts is inferred. Raises ManifestError with the fields that are
    missing when there is too little to infer from.
    """
    text = {**config, **_section(config, "text_config")}
    speaks_of_experts = any("expert" in str(key) for key in text)
    if _is_known(config) or not isinstance(text.get("model_type"), str) or not speaks_of_experts:
        return config, None
    try:
        inferred = infer_config(config)
    except PlanError as error:
        raise ManifestError((Violation("spec.model.config.model_type", "UnknownFamily", str(error)),)) from None
    assert inferred is not None
    return inferred


def _is_known(config: Mapping[str, Any]) -> bool:
    named = (config.get("model_type"), _section(config, "text_config").get("model_type"))
    return any(isinstance(name, str) and (name in FAMILIES or name in WRAPPERS) for name in named)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, Mapping) else {}


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)
