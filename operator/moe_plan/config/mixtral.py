"""Mixtral (Jiang 2024, arXiv:2401.04088): grouped-query attention, a MoE in each layer."""

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Layer


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a mixtral config."""
    window = fields.count("sliding_window") if fields.has("sliding_window") else None
    moe = blocks.gated_moe(fields, *blocks.experts_of(fields, "num_local_experts"), fields.count("intermediate_size"))
    n = blocks.layer_count(fields)
    return blocks.assemble(fields, [blocks.grouped_attention(fields, window)] * n, [moe] * n)
