"""The families of MoE models that are read, by the model_type of their text model."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Layer


@dataclass(frozen=True, slots=True)
class Family:
    """How a family's config.json is read: by functions of a module of this package, imported when they are called."""

    module: str
    reads_layers: str = "layers"
    """Name of the function in the module, and likewise below; may be dotted."""
    reads_final_norm: str = ""
    reads_prediction: str = ""
    tied_head: bool = False
    """tie_word_embeddings where the config does not say it."""

    def layers(self, fields: Fields) -> tuple[Layer, ...]:
        """The model's layers."""
        layers: tuple[Layer, ...] = self._function(self.reads_layers)(fields)
        return layers

    def final_norm_params(self, fields: Fields) -> int:
        """Parameters of the norm after the last layer: one of each hidden element where the family has no function."""
        return int(self._function(self.reads_final_norm)(fields)) if self.reads_final_norm else blocks.hidden(fields)

    def prediction_params(self, fields: Fields, layers: tuple[Layer, ...]) -> int:
        """Parameters of the multi-token-prediction modules in the checkpoint: none where the family has no function."""
        return int(self._function(self.reads_prediction)(fields, layers)) if self.reads_prediction else 0

    def _function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = attrgetter(name)(import_module(f"moe_plan.config.{self.module}"))
        return function


_DEEPSEEK_V3 = Family("deepseek", "v3_layers", reads_prediction="prediction_params")
_DEEPSEEK_SPARSE = Family("deepseek", "sparse_layers", reads_prediction="prediction_params")

FAMILIES = {
    "deepseek_v2": Family("deepseek", "v2_layers"),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _DEEPSEEK_SPARSE,
    "deepseek_v4": Family("deepseek_v4", reads_final_norm="final_norm_params"),
    "gemma4_text": Family("gemma4", tied_head=True),
    "glm4_moe": Family("glm4_moe", reads_prediction="deepseek.prediction_params"),
    "glm_moe_dsa": _DEEPSEEK_SPARSE,
    "gpt_oss": Family("gpt_oss"),
    "kimi_k2": _DEEPSEEK_V3,
    "kimi_linear": Family("kimi_linear", reads_final_norm="final_norm_params"),
    "llama4_text": Family("llama4"),
    "minimax_m2": Family("minimax_m2"),
    "mixtral": Family("mixtral"),
    "olmoe": Family("olmoe"),
    "qwen2_moe": Family("qwen_moe", "qwen2_layers"),
    "qwen3_5_moe_text": Family("qwen3_5_moe", reads_prediction="prediction_params"),
    "qwen3_moe": Family("qwen_moe", "qwen3_layers"),
}

WRAPPERS = {
    "gemma4": "gemma4_text",
    "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_linear",
    "llama4": "llama4_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
"""Multimodal model_types, and that of the text model in their text_config where it states none."""
