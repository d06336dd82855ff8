"""The parts that families share: grouped-query and latent attention, gated feed-forward layers, with their counts.

Legend of the comments: D hidden, H heads, K KV heads, d head width, r a low rank.
"""

from dataclasses import replace

from moe_plan.config.fields import MAX_LAYERS, Fields
from moe_plan.model import Attention, DenseFfn, Layer, MoeFfn
from moe_plan.parameters import layer_params

GATED = 3
"""Matrices of a gated FFN: gate, up, down (Shazeer 2020, arXiv:2002.05202)."""


def hidden(fields: Fields) -> int:
    """Width of the residual stream."""
    return fields.count("hidden_size")


def layer_count(fields: Fields) -> int:
    """Layers of the model, multi-token prediction apart."""
    return fields.count("num_hidden_layers", at_most=MAX_LAYERS)


def heads_of(fields: Fields) -> tuple[int, int]:
    """Query heads and KV heads (those of the queries where the config has none), noted where they do not fit."""
    heads = fields.count("num_attention_heads")
    kv_heads = fields.count_or(heads, "num_key_value_heads")
    if heads % kv_heads and fields.sound("num_attention_heads", "num_key_value_heads"):
        fields.note("num_key_value_heads", "HeadsNotDivisible", f"is {kv_heads}, which does not divide {heads} heads")
    return heads, kv_heads


def head_width(fields: Fields) -> int:
    """head_dim, or an even share of the hidden size."""
    heads, D = fields.count("num_attention_heads"), hidden(fields)
    if not fields.has("head_dim") and D % heads and fields.sound("num_attention_heads", "hidden_size"):
        message = f"is {heads}, which does not divide hidden_size {D}, and head_dim is missing"
        fields.note("num_attention_heads", "HeadsNotDivisible", message)
    return fields.count_or(max(1, D // heads), "head_dim")


def grouped_attention(fields: Fields, window: int | None = None) -> Attention:
    """Grouped-query attention without biases or norms (Ainslie 2023, arXiv:2305.13245)."""
    D, (H, K), d = hidden(fields), heads_of(fields), head_width(fields)
    return Attention(
        kind="gqa",
        heads=H,
        kv_heads=K,
        qk_dim=d,
        v_dim=d,
        query_params=2 * D * H * d,  # Q and O
        kv_params=2 * D * K * d,
        replicated_params=0,
        window=window,
    )


def latent_attention(fields: Fields) -> Attention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1); biases of attention_bias included."""
    D, H = hidden(fields), fields.count("num_attention_heads")
    r_q = fields.count_or(0, "q_lora_rank")
    r_kv, rope = fields.count("kv_lora_rank"), fields.count("qk_rope_head_dim", at_least=0)
    nope, v = fields.count("qk_nope_head_dim"), fields.count("v_head_dim")
    query_in, query_norm = (r_q, D * r_q + r_q) if r_q else (D, 0)
    biases = (r_q + r_kv + rope + D) if fields.flag("attention_bias", default=False) else 0
    return Attention(
        kind="mla",
        heads=H,
        kv_heads=H,
        qk_dim=nope + rope,
        v_dim=v,
        query_params=query_in * H * (nope + rope) + r_kv * H * (nope + v) + H * v * D,
        kv_params=0,
        replicated_params=query_norm + D * (r_kv + rope) + r_kv + biases,
        latent_dim=r_kv + rope,
    )


def plus(attention: Attention, query: int = 0, kv: int = 0, replicated: int = 0) -> Attention:
    """The attention with further parameters."""
    return replace(
        attention,
        query_params=attention.query_params + query,
        kv_params=attention.kv_params + kv,
        replicated_params=attention.replicated_params + replicated,
    )


def with_projection_biases(fields: Fields, attention: Attention) -> Attention:
    """The attention with biases on Q, K, V and O where attention_bias is set."""
    if not fields.flag("attention_bias", default=False):
        return attention
    H, K, d = attention.heads, attention.kv_heads, attention.qk_dim
    return plus(attention, query=H * d, kv=2 * K * d, replicated=hidden(fields))


def with_head_norms(attention: Attention) -> Attention:
    """The attention with a norm of one head's width on queries and one on keys."""
    return plus(attention, replicated=2 * attention.qk_dim)


def with_wide_norms(attention: Attention) -> Attention:
    """The attention with a norm over all query heads and one over all KV heads."""
    return plus(attention, query=attention.heads * attention.qk_dim, kv=attention.kv_heads * attention.qk_dim)


def dense_ffn(fields: Fields, key: str = "intermediate_size") -> DenseFfn:
    """A gated dense FFN of the width that `key` states."""
    width = fields.count(key)
    return DenseFfn(width=width, matrices=GATED, params=GATED * hidden(fields) * width)


def gated_moe(fields: Fields, experts: int, top_k: int, width: int, shared_width: int = 0) -> MoeFfn:
    """Gated routed and shared experts behind a linear router without bias."""
    D = hidden(fields)
    return MoeFfn(
        experts=experts,
        top_k=top_k,
        width=width,
        matrices=GATED,
        expert_params=GATED * D * width,
        shared_width=shared_width,
        shared_params=GATED * D * shared_width,
        router_params=D * experts,
    )


def experts_of(fields: Fields, *keys: str, top_k: str = "num_experts_per_tok") -> tuple[int, int]:
    """Routed experts and how many of them a token takes, noted where they do not fit."""
    experts, chosen = fields.count(*keys), fields.count(top_k)
    if chosen > experts and fields.sound(top_k, *keys):
        fields.note(top_k, "OutOfRange", f"is {chosen}, more than the {experts} experts")
    return experts, chosen


def assemble(fields: Fields, attentions: list[Attention], ffns: list[DenseFfn | MoeFfn]) -> tuple[Layer, ...]:
    """Layers with two norms each, `[layers]`."""
    norms = 2 * hidden(fields)
    return tuple(Layer(a, f, norms) for a, f in zip(attentions, ffns, strict=True))


def dense_first(fields: Fields, moe: MoeFfn) -> list[DenseFfn | MoeFfn]:
    """The FFNs of a model whose first layers are dense, by mlp_layer_types or first_k_dense_replace."""
    layers = layer_count(fields)
    dense = dense_ffn(fields)
    kinds = fields.words("mlp_layer_types", ("dense", "sparse"), layers)
    if kinds is not None:
        return [moe if kind == "sparse" else dense for kind in kinds]
    first, every = fields.count("first_k_dense_replace", at_least=0), fields.count_or(1, "moe_layer_freq")
    return [moe if i >= first and i % every == 0 else dense for i in range(layers)]


def sliding(fields: Fields, kinds: tuple[str, ...], window: str = "sliding_window") -> list[Attention]:
    """Grouped-query attention by layer: sliding or chunked layers see a window, full ones all tokens."""
    full = grouped_attention(fields)
    if all(kind == "full_attention" for kind in kinds):
        return [full] * len(kinds)
    near = replace(full, window=fields.count(window))
    return [full if kind == "full_attention" else near for kind in kinds]


def prediction_params(fields: Fields, layer: Layer, depth: int) -> int:
    """Parameters of `depth` multi-token-prediction modules: a layer, its joint of 2·D to D and three norms each.

    The embedding and head that a module shares with the model are not counted.
    """
    D = hidden(fields)
    return depth * (layer_params(layer).total + 2 * D * D + 3 * D)
