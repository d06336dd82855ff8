"""DeepSeek-V4: one shared KV head, compressed caches by layer, a grouped output projection, hyper-connections.

Parameter shapes as in transformers' `DeepseekV4Attention`, `DeepseekV4HyperConnection`. Each entry of the cache serves
as key and as value, so a layer counts as latent attention without an up-projection. Compressed layers keep the last
sliding_window tokens beside the compressed entries.
"""

from dataclasses import replace

from moe_plan.config import blocks, deepseek
from moe_plan.config.fields import Fields
from moe_plan.model import Attention, Layer

SLIDING, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
RATIOS = {0: SLIDING, 4: SPARSE, 128: HEAVY}
"""What each entry of compress_ratios stands for."""


def layers(fields: Fields) -> tuple[Layer, ...]:
    """Layers of a deepseek_v4 config. The first num_hash_layers route by token and have no correction bias."""
    by_kind = {SLIDING: _shared_kv(fields), SPARSE: _sparse(fields), HEAVY: _heavy(fields)}
    hashed = deepseek.shared_moe(fields)
    biased = deepseek.biased_moe(fields)
    first = fields.count_or(3, "num_hash_layers", at_least=0)
    norms = 2 * blocks.hidden(fields) + 2 * _hyper_connection(fields)
    return tuple(Layer(by_kind[kind], hashed if i < first else biased, norms) for i, kind in enumerate(_kinds(fields)))


def final_norm_params(fields: Fields) -> int:
    """The final norm, and the connection that joins the residual streams before the head."""
    D, streams = blocks.hidden(fields), fields.count_or(4, "hc_mult")
    return D + streams * streams * D + streams + 1


def _kinds(fields: Fields) -> tuple[str, ...]:
    n = blocks.layer_count(fields)
    kinds, ratios = fields.words("layer_types", tuple(RATIOS.values()), n), fields.counts("compress_ratios", n)
    if kinds or ratios is None:
        return kinds or tuple((HEAVY, SPARSE)[i % 2] if i > 1 else HEAVY for i in range(n))
    unknown = set(ratios[:n]) - RATIOS.keys()
    if unknown:
        fields.note("compress_ratios", "WrongValue", f"may hold 0, 4 and 128, not {min(unknown)}")
    return tuple(RATIOS.get(ratio, HEAVY) for ratio in ratios[:n])


def _shared_kv(fields: Fields) -> Attention:
    """Low-rank queries, one KV projection for all heads, low-rank output by groups, a sink a head."""
    D, H, d = blocks.hidden(fields), fields.count("num_attention_heads"), fields.count("head_dim")
    r_q, r_o, groups = fields.count("q_lora_rank"), fields.count("o_lora_rank"), fields.count("o_groups")
    if H % groups and fields.sound("num_attention_heads", "o_groups"):
        fields.note("o_groups", "HeadsNotDivisible", f"is {groups}, which does not divide {H} heads")
    return Attention(
        kind="mla",
        heads=H,
        kv_heads=H,
        qk_dim=d,
        v_dim=d,
        query_params=r_q * H * d + r_o * H * d + groups * r_o * D + H,
        kv_params=0,
        replicated_params=D * r_q + r_q + D * d + d,
        latent_dim=d,
        window=fields.count("sliding_window"),
    )


def _heavy(fields: Fields) -> Attention:
    d = fields.count("head_dim")
    compressor = _compressor(fields, d, d, 128)
    return replace(blocks.plus(_shared_kv(fields), replicated=compressor), compression=128)


def _sparse(fields: Fields) -> Attention:
    """Overlapping windows of four tokens, and an indexer that selects among their entries."""
    D, r_q, d = blocks.hidden(fields), fields.count("q_lora_rank"), fields.count("head_dim")
    heads, width = fields.count("index_n_heads"), fields.count("index_head_dim")
    indexer = _compressor(fields, width, 2 * width, 4) + r_q * heads * width + D * heads
    attention = blocks.plus(_shared_kv(fields), replicated=_compressor(fields, d, 2 * d, 4) + indexer)
    return replace(attention, compression=4, selected=fields.count("index_topk"), indexer_dim=max(1, width // 4))


def _compressor(fields: Fields, entry: int, width: int, ratio: int) -> int:
    """Projections to values and gates of `width`, a bias for each position of a window, a norm of the entry."""
    return 2 * blocks.hidden(fields) * width + ratio * width + entry


def _hyper_connection(fields: Fields) -> int:
    """Mixing of n residual streams: n read, n write and n·n carry weights from all streams, biases and three scales."""
    streams = fields.count_or(4, "hc_mult")
    mixes = (2 + streams) * streams
    return mixes * streams * blocks.hidden(fields) + mixes + 3
