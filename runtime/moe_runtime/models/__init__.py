"""The families that the runtime executes, by Hugging Face model_type. A new one is a file and a line here."""

from typing import Any

from moe_runtime.errors import UnsupportedModel
from moe_runtime.models.config import DecoderConfig
from moe_runtime.models.mixtral import MixtralConfig
from moe_runtime.models.qwen3_moe import Qwen3MoeConfig

FAMILIES: dict[str, type[DecoderConfig]] = {"mixtral": MixtralConfig, "qwen3_moe": Qwen3MoeConfig}


def parse_config(config: dict[str, Any]) -> DecoderConfig:
    """The checked config of a known family. Raises UnsupportedModel, with the families there are."""
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UnsupportedModel(f"model_type {family!r} is not executed by this runtime ({', '.join(FAMILIES)} are)")
    return FAMILIES[family].parse(config)
