"""Qwen3-MoE (arXiv 2505.09388): queries and keys normalised by head; some layers may have a dense FFN."""

from dataclasses import replace

from pydantic import AliasChoices, Field, PositiveInt

from moe_runtime.models.config import DecoderConfig
from moe_runtime.models.spec import AttentionSpec, FfnNames, FfnSpec, MoeSpec


class Qwen3MoeConfig(DecoderConfig):
    """config.json with model_type qwen3_moe."""

    intermediate_size: PositiveInt
    moe_intermediate_size: PositiveInt
    num_experts: PositiveInt = Field(validation_alias=AliasChoices("num_experts", "num_local_experts"))
    norm_topk_prob: bool = False
    attention_bias: bool = False
    decoder_sparse_step: PositiveInt = 1
    mlp_only_layers: list[int] | None = None
    use_sliding_window: bool = False
    sliding_window: PositiveInt | None = None

    def attention(self, layer: int, name: str) -> AttentionSpec:
        """Attention with head norms."""
        return replace(
            super().attention(layer, name),
            bias=self.attention_bias,
            head_norm=True,
            window=self.sliding_window if self.use_sliding_window else None,
        )

    def ffn(self, layer: int, name: str) -> FfnSpec | MoeSpec:
        """Experts, but for the layers that the config keeps dense."""
        dense = layer in (self.mlp_only_layers or ()) or (layer + 1) % self.decoder_sparse_step
        if dense:
            return self._ffn(f"{name}.mlp", self.intermediate_size)
        return MoeSpec(
            router=f"{name}.mlp.gate",
            experts=tuple(
                self._ffn(f"{name}.mlp.experts.{e}", self.moe_intermediate_size) for e in range(self.num_experts)
            ),
            top_k=self.num_experts_per_tok,
            scoring="softmax_of_chosen" if self.norm_topk_prob else "softmax_of_all",
        )

    def _ffn(self, name: str, width: int) -> FfnSpec:
        names = FfnNames(f"{name}.gate_proj", f"{name}.up_proj", f"{name}.down_proj")
        return FfnSpec(names, self.hidden_size, width)
