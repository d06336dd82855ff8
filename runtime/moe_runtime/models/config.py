"""The part of config.json that decoder families share, checked, and the ModelSpec that it comes to.

A family derives from DecoderConfig, adds its own fields, and says what a layer's FFN is.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from moe_runtime.errors import UnsupportedModel
from moe_runtime.models.rope import RopeSpec, rope_spec
from moe_runtime.models.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec, MoeSpec


class DecoderConfig(BaseModel, ABC):
    """Fields of a config.json that the runtime reads; the rest (dropout, token ids, …) does not change its numbers."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    default_rope_theta: ClassVar[float] = 10_000.0

    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt | None = None
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    rms_norm_eps: float = 1e-6
    hidden_act: Literal["silu"] = "silu"
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    num_experts_per_tok: PositiveInt

    @classmethod
    def parse(cls, config: dict[str, Any]) -> Self:
        """The checked fields of a config.json. Raises UnsupportedModel naming the first field that does not do."""
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "config"
            given = "" if first["type"] == "missing" else f", not {first['input']!r}"
            raise UnsupportedModel(f"config.json: {field}: {first['msg']}{given}") from None

    @abstractmethod
    def ffn(self, layer: int, name: str) -> FfnSpec | MoeSpec:
        """FFN of a layer, whose tensors begin with `name`."""

    def attention(self, layer: int, name: str) -> AttentionSpec:
        """Attention of a layer, whose tensors begin with `name`; families with more to say override it."""
        del layer
        return AttentionSpec(
            name=f"{name}.self_attn",
            hidden=self.hidden_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_width,
            bias=False,
            head_norm=False,
            window=None,
        )

    @property
    def head_width(self) -> int:
        """Elements of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def angles(self) -> RopeSpec:
        """Rotary embedding of all layers."""
        given = {"rope_scaling": self.rope_scaling, "rope_parameters": self.rope_parameters}
        theta = self.rope_theta or self.default_rope_theta
        return rope_spec(given, self.head_width, theta, self.max_position_embeddings)

    def spec(self) -> ModelSpec:
        """The whole decoder. Raises UnsupportedModel for what the runtime does not execute."""
        self._check_heads()
        spec = ModelSpec(
            hidden=self.hidden_size,
            vocab=self.vocab_size,
            norm_eps=self.rms_norm_eps,
            rope=self.angles(),
            layers=tuple(self._layer(layer) for layer in range(self.num_hidden_layers)),
            embedding="model.embed_tokens",
            final_norm="model.norm",
            head="model.embed_tokens" if self.tie_word_embeddings else "lm_head",
        )
        _check_experts(spec)
        return spec

    def _check_heads(self) -> None:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % kv_heads:
            raise UnsupportedModel(f"config.json: {heads} attention heads cannot share {kv_heads} KV heads evenly")
        if self.head_width % 2 or (not self.head_dim and self.hidden_size % heads):
            width = f"{self.head_dim or self.hidden_size / heads:g}"
            raise UnsupportedModel(f"config.json: rotary positions need heads of an even width, not {width}")

    def _layer(self, layer: int) -> LayerSpec:
        name = f"model.layers.{layer}"
        return LayerSpec(
            attention_norm=f"{name}.input_layernorm",
            attention=self.attention(layer, name),
            ffn_norm=f"{name}.post_attention_layernorm",
            ffn=self.ffn(layer, name),
        )


def _check_experts(spec: ModelSpec) -> None:
    for layer in spec.layers:
        if isinstance(layer.ffn, MoeSpec) and layer.ffn.top_k > len(layer.ffn.experts):
            chosen, experts = layer.ffn.top_k, len(layer.ffn.experts)
            raise UnsupportedModel(f"config.json: num_experts_per_tok is {chosen}, but there are {experts} experts")
