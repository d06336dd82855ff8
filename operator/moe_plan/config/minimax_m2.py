"""MiniMax-M2 and M2.5: grouped-query attention with norms over all heads, 256 small experts, a biased router.

Parameter shapes as in transformers' `MiniMaxM2Attention` and `MiniMaxM2SparseMoeBlock`.
"""

from dataclasses import replace

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Layer


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a minimax_m2 config."""
    attention = blocks.grouped_attention(fields)
    if fields.flag("use_qk_norm", default=True):
        attention = blocks.with_wide_norms(attention)
    experts, top_k = blocks.experts_of(fields, "num_local_experts")
    shared = fields.count_or(0, "shared_intermediate_size", at_least=0)
    moe = blocks.gated_moe(fields, experts, top_k, fields.count("intermediate_size"), shared)
    n = blocks.layer_count(fields)
    return blocks.assemble(fields, [attention] * n, [replace(moe, router_params=moe.router_params + experts)] * n)
