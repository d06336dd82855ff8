"""Tiny checkpoints made with transformers, and the greedy tokens that transformers gives for them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCAB = 99
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "num_experts_per_tok": 2,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel], dict[str, Any]]] = {
    "mixtral": (MixtralConfig, MixtralForCausalLM, {"num_local_experts": 8}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {"num_experts": 8, "moe_intermediate_size": 16, "head_dim": 8, "norm_topk_prob": True},
    ),
}
PROMPTS = [[5, 17, 3, 80, 41], [9], list(range(1, 38)), [60, 2, 98, 33, 7, 7, 12, 50, 51, 52, 4]]
"""Prompts of different lengths."""
NEW_TOKENS = 6


@dataclass(frozen=True)
class TinyModel:
    """A checkpoint on disk, and the model that wrote it."""

    path: Path
    model: PreTrainedModel
    _known: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.path / "config.json").read_text())

    def greedy(self, prompts: list[list[int]], new_tokens: int = NEW_TOKENS) -> list[list[int]]:
        """What transformers generates, each prompt by itself; worked out once."""
        for prompt in prompts:
            if (*prompt, new_tokens) not in self._known:
                self._known[*prompt, new_tokens] = self._greedy(prompt, new_tokens)
        return [self._known[*prompt, new_tokens] for prompt in prompts]

    def _greedy(self, prompt: list[int], new_tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        made = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
        return made[0, len(prompt) :].tolist()

    @torch.no_grad()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Logits after each token, [tokens, vocabulary]."""
        return self.model(torch.tensor([tokens])).logits[0].float()


def make_tiny(path: Path, family: str, shard_size: str = "5GB", **config: Any) -> TinyModel:
    """A checkpoint with random weights; everything random but the norms' scale, which varies too."""
    config_class, model_class, own = FAMILIES[family]
    torch.manual_seed(7)
    model = model_class(config_class(**{**COMMON, **own, **config})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) + (0.5 if "norm" in name else -0.5))
    model.save_pretrained(path, max_shard_size=shard_size)
    return TinyModel(path, model)
