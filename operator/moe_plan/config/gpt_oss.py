"""gpt-oss (arXiv:2508.10925): alternating sliding and full attention with sinks, biases everywhere."""

from dataclasses import replace

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, Layer

KINDS = ("sliding_attention", "full_attention")


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a gpt_oss config."""
    n, width = blocks.layer_count(fields), fields.count("intermediate_size")
    moe = blocks.gated_moe(fields, *blocks.experts_of(fields, "num_local_experts", top_k=_top_k_key(fields)), width)
    biased = replace(
        moe,
        expert_params=moe.expert_params + 2 * width + blocks.hidden(fields),
        router_params=moe.router_params + moe.experts,
    )
    kinds = fields.words("layer_types", KINDS, n) or tuple(KINDS[i % 2] for i in range(n))
    attentions = [_with_biases_and_sinks(fields, attention) for attention in blocks.sliding(fields, kinds)]
    return blocks.assemble(fields, attentions, [biased] * n)


def _top_k_key(fields: Fields) -> str:
    return "num_experts_per_tok" if fields.has("num_experts_per_tok") else "experts_per_token"


def _with_biases_and_sinks(fields: Fields, attention: Attention) -> Attention:
    """A sink is one logit a head; the biases are there unless attention_bias is false."""
    sunk = blocks.plus(attention, query=attention.heads)
    given = fields.has("attention_bias")
    biased = fields if given else Fields({**fields.values, "attention_bias": True}, fields.path, fields.violations)
    return blocks.with_projection_biases(biased, sunk)
