"""DeepSeek-V2, V3 (also R1, Kimi-K2), V3.2 and GLM-5: latent attention, shared experts, dense first layers.

V2 arXiv:2405.04434, V3 arXiv:2412.19437, V3.2's lightning indexer arXiv:2512.02556, GLM-5 arXiv:2602.15763. From V3 on
the router carries a correction bias for each expert.
"""

from dataclasses import replace

from moe_plan.config import blocks
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, Layer, MoeFfn


def v2_layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a deepseek_v2 config."""
    attentions = [blocks.latent_attention(fields)] * blocks.layer_count(fields)
    return blocks.assemble(fields, attentions, blocks.dense_first(fields, shared_moe(fields)))


def v3_layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a deepseek_v3 or kimi_k2 config."""
    attentions = [blocks.latent_attention(fields)] * blocks.layer_count(fields)
    return blocks.assemble(fields, attentions, blocks.dense_first(fields, biased_moe(fields)))


def sparse_layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a deepseek_v32 or glm_moe_dsa config; indexer_types may let layers share the indexer before them."""
    n = blocks.layer_count(fields)
    selecting = replace(blocks.latent_attention(fields), selected=fields.count("index_topk"))
    own = _with_indexer(fields, selecting)
    kinds = fields.words("indexer_types", ("full", "shared"), n) or ("full",) * n
    attentions = [own if kind == "full" else selecting for kind in kinds]
    return blocks.assemble(fields, attentions, blocks.dense_first(fields, biased_moe(fields)))


def prediction_params(fields: Fields, layers: tuple[Layer, ...]) -> int:
    """Parameters of the multi-token-prediction modules (V3, section 2.2): each repeats the last layer."""
    return blocks.prediction_params(fields, layers[-1], fields.count_or(0, "num_nextn_predict_layers", at_least=0))


def shared_moe(fields: Fields) -> MoeFfn:
    """Routed and shared experts of one width."""
    width = fields.count("moe_intermediate_size")
    shared = fields.count_or(0, "n_shared_experts", at_least=0) * width
    return blocks.gated_moe(fields, *blocks.experts_of(fields, "n_routed_experts", "num_local_experts"), width, shared)


def biased_moe(fields: Fields) -> MoeFfn:
    """The same with a correction bias for each expert in the router."""
    moe = shared_moe(fields)
    return replace(moe, router_params=moe.router_params + moe.experts)


def _with_indexer(fields: Fields, attention: Attention) -> Attention:
    """Query up-projection, key projection with its layer norm, and head weights (V3.2, section 2.1)."""
    D, r_q = blocks.hidden(fields), fields.count("q_lora_rank")
    heads, width = fields.count("index_n_heads"), fields.count("index_head_dim")
    indexer = r_q * heads * width + D * width + 2 * width + D * heads
    return replace(blocks.plus(attention, replicated=indexer), indexer_dim=width)
