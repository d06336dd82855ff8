"""The families of MoE models that are read, by the model_type of their text model."""

from collections.abc import Callable
from dataclasses import dataclass

from moe_plan.config import (
    blocks,
    deepseek,
    deepseek_v4,
    gemma4,
    glm4_moe,
    gpt_oss,
    kimi_linear,
    llama4,
    minimax_m2,
    mixtral,
    olmoe,
    qwen3_5_moe,
    qwen_moe,
)
from moe_plan.config.fields import Fields
from moe_plan.model import Layer


def _no_prediction(_fields: Fields, _layers: tuple[Layer, ...]) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Family:
    """How a family's config.json is read."""

    layers: Callable[[Fields], tuple[Layer, ...]]
    final_norm_params: Callable[[Fields], int] = blocks.hidden
    prediction_params: Callable[[Fields, tuple[Layer, ...]], int] = _no_prediction
    """Parameters of the multi-token-prediction modules in the checkpoint."""
    tied_head: bool = False
    """tie_word_embeddings where the config does not say it."""


_DEEPSEEK_V3 = Family(deepseek.v3_layers, prediction_params=deepseek.prediction_params)
_DEEPSEEK_SPARSE = Family(deepseek.sparse_layers, prediction_params=deepseek.prediction_params)

FAMILIES = {
    "deepseek_v2": Family(deepseek.v2_layers),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _DEEPSEEK_SPARSE,
    "deepseek_v4": Family(deepseek_v4.layers, deepseek_v4.final_norm_params),
    "gemma4_text": Family(gemma4.layers, tied_head=True),
    "glm4_moe": Family(glm4_moe.layers, prediction_params=deepseek.prediction_params),
    "glm_moe_dsa": _DEEPSEEK_SPARSE,
    "gpt_oss": Family(gpt_oss.layers),
    "kimi_k2": _DEEPSEEK_V3,
    "kimi_linear": Family(kimi_linear.layers, kimi_linear.final_norm_params),
    "llama4_text": Family(llama4.layers),
    "minimax_m2": Family(minimax_m2.layers),
    "mixtral": Family(mixtral.layers),
    "olmoe": Family(olmoe.layers),
    "qwen2_moe": Family(qwen_moe.qwen2_layers),
    "qwen3_5_moe_text": Family(qwen3_5_moe.layers, prediction_params=qwen3_5_moe.prediction_params),
    "qwen3_moe": Family(qwen_moe.qwen3_layers),
}

WRAPPERS = {
    "gemma4": "gemma4_text",
    "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_linear",
    "llama4": "llama4_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
"""Multimodal model_types, and that of the text model in their text_config where it states none."""
