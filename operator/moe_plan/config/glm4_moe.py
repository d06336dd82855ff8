"""GLM-4.5 (arXiv:2508.06471): grouped-query attention with biases, shared expert, dense first layers."""

from dataclasses import replace

from moe_plan.config import blocks, deepseek
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, Layer


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a glm4_moe config."""
    attentions = [_attention(fields)] * blocks.layer_count(fields)
    return blocks.assemble(fields, attentions, blocks.dense_first(fields, deepseek.biased_moe(fields)))


def _attention(fields: Fields) -> Attention:
    """attention_bias puts biases on Q, K and V only."""
    attention = blocks.with_projection_biases(fields, blocks.grouped_attention(fields))
    attention = replace(attention, replicated_params=0)
    return blocks.with_head_norms(attention) if fields.flag("use_qk_norm", default=False) else attention
