"""What a model computes and what its checkpoint holds, as plain data: layers are built from it, tensors checked by it.

A family's file turns a config.json into a ModelSpec; everything else of the runtime knows specs alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moe_runtime.models.rope import RopeSpec


class TensorShape(NamedTuple):
    """A tensor as the checkpoint stores it."""

    name: str
    shape: tuple[int, ...]


def linear(name: str, outputs: int, inputs: int) -> TensorShape:
    """Weight of a linear layer, `[outputs, inputs]`."""
    return TensorShape(f"{name}.weight", (outputs, inputs))


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention with rotary positions."""

    name: str
    """Prefix of its tensors."""
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool
    """Whether the four projections have biases."""
    head_norm: bool
    """Whether queries and keys are normalised head by head."""
    window: int | None
    """Tokens that a query sees, itself included; None when all."""

    @property
    def projections(self) -> tuple[tuple[str, int, int], ...]:
        """Name, outputs and inputs of each projection."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            (f"{self.name}.q_proj", queries, self.hidden),
            (f"{self.name}.k_proj", keys, self.hidden),
            (f"{self.name}.v_proj", keys, self.hidden),
            (f"{self.name}.o_proj", self.hidden, queries),
        )

    def tensors(self) -> Iterator[TensorShape]:
        """What the checkpoint holds of it."""
        for name, outputs, inputs in self.projections:
            yield linear(name, outputs, inputs)
            if self.bias:
                yield TensorShape(f"{name}.bias", (outputs,))
        if self.head_norm:
            yield TensorShape(f"{self.name}.q_norm.weight", (self.head_dim,))
            yield TensorShape(f"{self.name}.k_norm.weight", (self.head_dim,))


class FfnNames(NamedTuple):
    """Names of the three matrices of a gated FFN: down(silu(gate(x)) * up(x))."""

    gate: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class FfnSpec:
    """One gated feed-forward network: a dense layer's, or an expert's."""

    names: FfnNames
    hidden: int
    width: int

    def tensors(self) -> Iterator[TensorShape]:
        """What the checkpoint holds of it."""
        yield linear(self.names.gate, self.width, self.hidden)
        yield linear(self.names.up, self.width, self.hidden)
        yield linear(self.names.down, self.hidden, self.width)


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """A Mixture-of-Experts layer."""

    router: str
    """Name of the router's linear layer."""
    experts: tuple[FfnSpec, ...]
    """Logical experts."""
    top_k: int
    scoring: Literal["softmax_of_chosen", "softmax_of_all"]
    """Whether the weights of the chosen experts add up to one, or are their shares among all experts."""

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.experts[0].hidden

    def tensors(self) -> Iterator[TensorShape]:
        """What the checkpoint holds of it."""
        yield linear(self.router, len(self.experts), self.hidden)
        for expert in self.experts:
            yield from expert.tensors()


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One transformer layer: x + attention(norm(x)), then x + ffn(norm(x))."""

    attention_norm: str
    attention: AttentionSpec
    ffn_norm: str
    ffn: FfnSpec | MoeSpec

    def tensors(self) -> Iterator[TensorShape]:
        """What the checkpoint holds of it."""
        yield TensorShape(f"{self.attention_norm}.weight", (self.attention.hidden,))
        yield from self.attention.tensors()
        yield TensorShape(f"{self.ffn_norm}.weight", (self.attention.hidden,))
        yield from self.ffn.tensors()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole decoder."""

    hidden: int
    vocab: int
    norm_eps: float
    rope: RopeSpec
    layers: tuple[LayerSpec, ...]
    embedding: str
    final_norm: str
    head: str
    """Name of the head's linear layer: the embedding's where they share their weights."""

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor that the checkpoint must hold, by name."""
        shapes = dict(tensor for layer in self.layers for tensor in layer.tensors())
        shapes[f"{self.final_norm}.weight"] = (self.hidden,)
        for name in (self.embedding, self.head):
            shapes[f"{name}.weight"] = (self.vocab, self.hidden)
        return shapes

    def may_hold(self, name: str) -> bool:
        """Whether a tensor beyond `tensors()` is known to be harmless: a copy of a shared head, or of RoPE's table."""
        shared_head = self.head == self.embedding and name == "lm_head.weight"
        return shared_head or name.endswith(".rotary_emb.inv_freq")
