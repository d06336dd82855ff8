"""Llama 4 (Meta 2025, llama-models MODEL_CARD): one routed and one shared expert, chunked attention in three of four layers."""

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import DenseFfn, Layer, MoeFfn

KINDS = ("chunked_attention", "full_attention")


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a llama4_text config. Its query and key norms have no parameters."""
    attentions = blocks.sliding(fields, _kinds(fields), "attention_chunk_size")
    biased = [blocks.with_projection_biases(fields, attention) for attention in attentions]
    return blocks.assemble(fields, biased, _ffns(fields))


def _kinds(fields: Fields) -> tuple[str, ...]:
    """Layers with rotary positions see their chunk of the text only; the others, and all without chunks, see all."""
    n = blocks.layer_count(fields)
    if "attention_chunk_size" in fields.values and not fields.has("attention_chunk_size"):
        return ("full_attention",) * n
    kinds = fields.words("layer_types", KINDS, n)
    every = fields.count_or(4, "no_rope_layer_interval")
    rotary = fields.counts("no_rope_layers", n) or tuple(int((i + 1) % every != 0) for i in range(n))
    return kinds or tuple(KINDS[0] if rotary[i] else KINDS[1] for i in range(n))


def _ffns(fields: Fields) -> list[DenseFfn | MoeFfn]:
    """Experts in the layers of moe_layers, or in each interleave_moe_layer_step-th."""
    n, width = blocks.layer_count(fields), fields.count("intermediate_size")
    moe = blocks.gated_moe(fields, *blocks.experts_of(fields, "num_local_experts"), width, width)
    step = fields.count_or(1, "interleave_moe_layer_step")
    named = fields.counts("moe_layers")
    sparse = [i in named if named is not None else (i + 1) % step == 0 for i in range(n)]
    if all(sparse):
        return [moe] * n
    dense = blocks.dense_ffn(fields, "intermediate_size_mlp")
    return [moe if here else dense for here in sparse]
