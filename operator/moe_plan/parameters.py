"""How many parameters a model has, by class: counted from its shape, as its checkpoint stores them.

`total_params` counts embedding, layers, final norm and head. `active_params` counts what one token multiplies with:
its experts, everything that is not an expert, and the head, but not the embedding, of which it reads one row
(the convention of gpt-oss's model card, arXiv:2508.10925, table 1). Multi-token prediction and vision are in neither.
"""

from dataclasses import dataclass

from moe_plan.model import Attention, Layer, ModelShape, MoeFfn


@dataclass(frozen=True, slots=True)
class LayerParams:
    """Parameters of one layer, by class."""

    attention: int
    expert: int
    """One routed expert; 0 in a dense layer."""
    experts: int
    """All routed experts."""
    active_experts: int
    """The routed experts that one token takes."""
    shared: int
    dense: int
    router: int
    other: int
    """Norms."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.active - self.active_experts + self.experts

    @property
    def active(self) -> int:
        """What one token uses."""
        return self.attention + self.active_experts + self.shared + self.dense + self.router + self.other


def attention_params(attention: Attention) -> int:
    """Parameters of one layer's attention."""
    return attention.query_params + attention.kv_params + attention.replicated_params


def layer_params(layer: Layer) -> LayerParams:
    """Parameters of one layer, by class."""
    ffn = layer.ffn
    moe = ffn if isinstance(ffn, MoeFfn) else None
    expert = moe.expert_params if moe else 0
    return LayerParams(
        attention=attention_params(layer.attention),
        expert=expert,
        experts=moe.experts * expert if moe else 0,
        active_experts=moe.top_k * expert if moe else 0,
        shared=moe.shared_params if moe else 0,
        dense=0 if isinstance(ffn, MoeFfn) else ffn.params,
        router=moe.router_params if moe else 0,
        other=layer.norm_params,
    )


def total_params(shape: ModelShape) -> int:
    """Parameters of the whole model."""
    layers = sum(layer_params(layer).total for layer in shape.layers)
    return shape.embedding_params + layers + shape.final_norm_params + shape.head_params


def active_params(shape: ModelShape) -> int:
    """Parameters that one token multiplies with; a head that shares the embedding's weights counts."""
    layers = sum(layer_params(layer).active for layer in shape.layers)
    return layers + shape.final_norm_params + (shape.head_params or shape.embedding_params)
