"""OLMoE (Muennighoff 2024, arXiv:2409.02060): Mixtral's shape with norms over all query and all KV heads."""

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Layer


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of an olmoe config."""
    attention = blocks.with_wide_norms(blocks.with_projection_biases(fields, blocks.grouped_attention(fields)))
    moe = blocks.gated_moe(fields, *blocks.experts_of(fields, "num_experts"), fields.count("intermediate_size"))
    n = blocks.layer_count(fields)
    return blocks.assemble(fields, [attention] * n, [moe] * n)
