"""Qwen2-MoE (arXiv:2407.10671: biased Q, K, V and a gated shared expert) and Qwen3-MoE (arXiv:2505.09388: head norms)."""

from dataclasses import replace

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, DenseFfn, Layer, MoeFfn


def qwen2_layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a qwen2_moe config."""
    attention = blocks.grouped_attention(fields)
    if fields.flag("qkv_bias", default=True):
        H, K, d = attention.heads, attention.kv_heads, attention.qk_dim
        attention = blocks.plus(attention, query=H * d, kv=2 * K * d)
    moe = blocks.gated_moe(
        fields,
        *blocks.experts_of(fields, "num_experts"),
        fields.count("moe_intermediate_size"),
        fields.count("shared_expert_intermediate_size"),
    )
    gated = replace(moe, shared_params=moe.shared_params + blocks.hidden(fields))
    return blocks.assemble(fields, _windowed(fields, attention), sparse_steps(fields, gated))


def qwen3_layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a qwen3_moe config."""
    plain = blocks.with_projection_biases(fields, blocks.grouped_attention(fields))
    # transformers 5 writes num_local_experts, and reads either.
    experts, top_k = blocks.experts_of(fields, "num_experts", "num_local_experts")
    moe = blocks.gated_moe(fields, experts, top_k, fields.count("moe_intermediate_size"))
    attentions = _windowed(fields, blocks.with_head_norms(plain))
    return blocks.assemble(fields, attentions, sparse_steps(fields, moe))


def sparse_steps(fields: Fields, moe: MoeFfn) -> list[DenseFfn | MoeFfn]:
    """A MoE in each decoder_sparse_step-th layer that mlp_only_layers does not name."""
    step, dense_layers = fields.count_or(1, "decoder_sparse_step"), set(fields.counts("mlp_only_layers") or ())
    sparse = [i not in dense_layers and (i + 1) % step == 0 for i in range(blocks.layer_count(fields))]
    if all(sparse):
        return [moe] * len(sparse)
    dense = blocks.dense_ffn(fields)
    return [moe if here else dense for here in sparse]


def _windowed(fields: Fields, attention: Attention) -> list[Attention]:
    """use_sliding_window gives the layers from max_window_layers on a window."""
    n = blocks.layer_count(fields)
    if not fields.flag("use_sliding_window", default=False):
        return [attention] * n
    first = fields.count("max_window_layers", at_least=0)
    near = replace(attention, window=fields.count("sliding_window"))
    return [near if i >= first else attention for i in range(n)]
