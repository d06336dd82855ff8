"""Kimi-Linear (arXiv:2510.26692) and Kimi-K3 (arXiv:2607.24653): three delta attentions to one latent attention.

K3 adds full-rank gates, experts in a latent width (routed_expert_hidden_size) and attention over the residuals
(attn_res_block_size). Shapes of Kimi-Linear as in transformers' `KimiLinearDeltaAttention`, of K3 as in the tensors of
its checkpoint.
"""

from dataclasses import replace

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, Layer, MoeFfn


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a kimi_linear config."""
    n = blocks.layer_count(fields)
    linear = fields.section("linear_attn_config")
    if linear is None:
        fields.note("linear_attn_config", "MissingField", "is missing from the config.json")
        return ()
    full = set(linear.counts("full_attn_layers") or ())  # counted from 1
    latent, delta = _latent(fields), _delta(fields, linear)
    attentions = [latent if i + 1 in full else delta for i in range(n)]
    norms = 2 * blocks.hidden(fields) + 2 * _residual_attention(fields)
    return tuple(
        Layer(attention, ffn, norms)
        for attention, ffn in zip(attentions, blocks.dense_first(fields, _moe(fields)), strict=True)
    )


def final_norm_params(fields: Fields) -> int:
    """The final norm, and the attention over residuals before it."""
    return blocks.hidden(fields) + _residual_attention(fields)


def _residual_attention(fields: Fields) -> int:
    """A norm and a projection to one logit, before attention, before the FFN and before the head."""
    return 2 * blocks.hidden(fields) if fields.has("attn_res_block_size") else 0


def _latent(fields: Fields) -> Attention:
    attention = blocks.latent_attention(fields)
    gated = fields.flag("mla_use_output_gate", default=False)
    return blocks.plus(attention, query=blocks.hidden(fields) * attention.heads * attention.v_dim if gated else 0)


def _delta(fields: Fields, linear: Fields) -> Attention:
    """Kimi delta attention: Q, K, V, O, convolutions, a decay of low rank, a write strength a head, an output gate."""
    D, H, d = blocks.hidden(fields), linear.count("num_heads"), linear.count("head_dim")
    kernel, width = linear.count("short_conv_kernel_size"), H * d
    full_gate = linear.flag("use_full_rank_gate", default=False)
    gate, gate_in = (D * width, 0) if full_gate else (d * width, D * d)
    return Attention(
        kind="linear",
        heads=H,
        kv_heads=H,
        qk_dim=d,
        v_dim=d,
        query_params=4 * D * width + 3 * width * kernel + d * width + width + H + D * H + gate,
        kv_params=0,
        replicated_params=D * d + d + gate_in,
        state_elements=H * d * d + 3 * width * (kernel - 1),
    )


def _moe(fields: Fields) -> MoeFfn:
    """Experts of the residual's width, or of a latent width with projections to it, back from it, and a norm."""
    experts, top_k = blocks.experts_of(fields, "num_experts", top_k="num_experts_per_token")
    width = fields.count("moe_intermediate_size")
    shared = fields.count_or(0, "num_shared_experts", at_least=0) * width
    moe = blocks.gated_moe(fields, experts, top_k, width, shared)
    biased = replace(moe, router_params=moe.router_params + experts)
    if not fields.has("routed_expert_hidden_size"):
        return biased
    inner = fields.count("routed_expert_hidden_size")
    return replace(
        biased,
        expert_hidden=inner,
        expert_params=blocks.GATED * inner * width,
        router_params=biased.router_params + 2 * blocks.hidden(fields) * inner + _latent_norm(fields, inner),
    )


def _latent_norm(fields: Fields, inner: int) -> int:
    return inner if fields.flag("latent_moe_use_norm", default=False) else 0
