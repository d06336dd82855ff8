"""Qwen3.5-MoE: three gated delta nets (Yang 2024, arXiv:2412.06464) to one gated full attention, many small experts.

Parameter shapes as in transformers' `Qwen3_5MoeGatedDeltaNet` and `Qwen3_5MoeAttention`.
"""

from dataclasses import replace

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, Layer

KINDS = ("full_attention", "linear_attention")


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a qwen3_5_moe_text config."""
    by_kind = {"full_attention": _full(fields), "linear_attention": _delta_net(fields)}
    moe = blocks.gated_moe(
        fields,
        *blocks.experts_of(fields, "num_experts"),
        fields.count("moe_intermediate_size"),
        fields.count("shared_expert_intermediate_size"),
    )
    gated = replace(moe, shared_params=moe.shared_params + blocks.hidden(fields))
    attentions = [by_kind[kind] for kind in _kinds(fields)]
    return blocks.assemble(fields, attentions, [gated] * len(attentions))


def prediction_params(fields: Fields, layers: tuple[Layer, ...]) -> int:
    """Parameters of the multi-token-prediction layers: full attention and experts each, their joint and norms."""
    full = [layer for layer in layers if layer.attention.kind == "gqa"]
    depth = fields.count_or(0, "mtp_num_hidden_layers", at_least=0)
    return blocks.prediction_params(fields, full[-1], depth) if full else 0


def _kinds(fields: Fields) -> tuple[str, ...]:
    n, every = blocks.layer_count(fields), fields.count_or(4, "full_attention_interval")
    kinds = fields.words("layer_types", KINDS, n)
    return kinds or tuple(KINDS[0] if (i + 1) % every == 0 else KINDS[1] for i in range(n))


def _full(fields: Fields) -> Attention:
    """Grouped-query attention with head norms; the output gate doubles the query projection."""
    attention = blocks.with_head_norms(blocks.with_projection_biases(fields, blocks.grouped_attention(fields)))
    gate = blocks.hidden(fields) * attention.heads * attention.qk_dim
    return blocks.plus(attention, query=gate if fields.flag("attn_output_gate", default=True) else 0)


def _delta_net(fields: Fields) -> Attention:
    """One gated delta net. A head here is a key head with the value heads that share its key."""
    D, kernel = blocks.hidden(fields), fields.count("linear_conv_kernel_dim")
    H, d_k = fields.count("linear_num_key_heads"), fields.count("linear_key_head_dim")
    H_v, d_v = fields.count("linear_num_value_heads"), fields.count("linear_value_head_dim")
    if H_v % H and fields.sound("linear_num_key_heads", "linear_num_value_heads"):
        message = f"is {H_v}, not a multiple of the {H} key heads"
        fields.note("linear_num_value_heads", "HeadsNotDivisible", message)
    keys, values = H * d_k, H_v * d_v
    mixed = 2 * keys + values
    return Attention(
        kind="linear",
        heads=H,
        kv_heads=H,
        qk_dim=d_k,
        v_dim=values // H,
        query_params=D * (mixed + 2 * values + 2 * H_v) + mixed * kernel + 2 * H_v,
        kv_params=0,
        replicated_params=d_v,
        state_elements=H_v * d_k * d_v + mixed * (kernel - 1),
    )
