"""Mixtral (arXiv 2401.04088): every layer a Mixture-of-Experts, the chosen experts' weights adding up to one."""

from dataclasses import replace
from typing import ClassVar

from pydantic import PositiveInt

from moe_runtime.models.config import DecoderConfig
from moe_runtime.models.spec import AttentionSpec, FfnNames, FfnSpec, MoeSpec


class MixtralConfig(DecoderConfig):
    """config.json with model_type mixtral."""

    default_rope_theta: ClassVar[float] = 1_000_000.0

    intermediate_size: PositiveInt
    num_local_experts: PositiveInt
    sliding_window: PositiveInt | None = None

    def attention(self, layer: int, name: str) -> AttentionSpec:
        """Plain attention, in some releases with a sliding window."""
        return replace(super().attention(layer, name), window=self.sliding_window)

    def ffn(self, layer: int, name: str) -> MoeSpec:  # noqa: ARG002  # all layers are alike
        """Experts whose matrices are called w1 (gate), w3 (up) and w2 (down)."""
        block = f"{name}.block_sparse_moe"
        return MoeSpec(
            router=f"{block}.gate",
            experts=tuple(self._expert(f"{block}.experts.{e}") for e in range(self.num_local_experts)),
            top_k=self.num_experts_per_tok,
            scoring="softmax_of_chosen",
        )

    def _expert(self, name: str) -> FfnSpec:
        return FfnSpec(FfnNames(f"{name}.w1", f"{name}.w3", f"{name}.w2"), self.hidden_size, self.intermediate_size)
