"""Gemma 4's MoE (26B-A4B): a dense FFN beside the experts of each layer, five sliding layers to one full.

Parameter shapes as in transformers' `Gemma4TextDecoderLayer`. The dense FFN is counted as a shared expert. Full layers
have their own head width and KV heads, and with attention_k_eq_v one projection for K and V, which are cached apart.
"""

from dataclasses import replace

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, Layer, MoeFfn

KINDS = ("sliding_attention", "full_attention")
UNSUPPORTED = ("hidden_size_per_layer_input", "num_kv_shared_layers")
"""Features of the small dense Gemmas; no MoE of the family has them."""


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a gemma4_text config with enable_moe_block."""
    _refuse_features_of_the_dense(fields)
    n, D = blocks.layer_count(fields), blocks.hidden(fields)
    kinds = fields.words("layer_types", KINDS, n)
    kinds = kinds or tuple(KINDS[0] if (i + 1) % 6 and i + 1 < n else KINDS[1] for i in range(n))
    near, far = replace(blocks.grouped_attention(fields), window=fields.count("sliding_window")), _full(fields)
    norms = 7 * D + 1  # around attention, FFN and experts; a scale of the layer's output
    ffn = _moe(fields) if fields.flag("enable_moe_block", default=False) else blocks.dense_ffn(fields)
    by_kind = {KINDS[0]: blocks.with_head_norms(near), KINDS[1]: blocks.with_head_norms(far)}
    return tuple(Layer(by_kind[kind], ffn, norms) for kind in kinds)


def _full(fields: Fields) -> Attention:
    """Attention over all tokens: global_head_dim wide, and with attention_k_eq_v of num_global_key_value_heads."""
    shared = fields.flag("attention_k_eq_v", default=False)
    kv_heads = fields.count_or(0, "num_global_key_value_heads") if shared else 0
    values = {**fields.values, "head_dim": fields.count_or(512, "global_head_dim")}
    values["num_key_value_heads"] = kv_heads or fields.values.get("num_key_value_heads")
    attention = blocks.grouped_attention(Fields(values, fields.path, fields.violations))
    return replace(attention, kv_params=attention.kv_params // 2) if shared else attention


def _moe(fields: Fields) -> MoeFfn:
    """The router has a scale for each input and one for each expert."""
    experts, top_k = blocks.experts_of(fields, "num_experts", top_k="top_k_experts")
    moe = blocks.gated_moe(
        fields, experts, top_k, fields.count("moe_intermediate_size"), fields.count("intermediate_size")
    )
    return replace(moe, router_params=moe.router_params + blocks.hidden(fields) + experts)


def _refuse_features_of_the_dense(fields: Fields) -> None:
    for key in UNSUPPORTED:
        if fields.count_or(0, key, at_least=0):
            fields.note(key, "Unsupported", "must be 0: the planner reads Gemma 4's MoE models, which do not use it")
