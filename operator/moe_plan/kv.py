"""What attention remembers: bytes that a request's tokens take on one rank, layer by layer."""

import math

from moe_plan.columns import Column, minimum, where
from moe_plan.model import Attention
from moe_plan.shares import ceil_div

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}
"""Bytes of one element of a computed or cached tensor, by format: IEEE 754 widths."""

_STATE_BYTES = ELEMENT_BYTES["float32"]  # recurrences are accumulated in float32 whatever the cache's format


def entry_bytes(attention: Attention, tp: Column, element_bytes: int) -> Column:
    """Bytes of one cached entry on one tp rank (an array where tp is one); 0 for linear attention.

    GQA: K and V of the rank's KV heads, one head replicated once tp exceeds their number. MLA: the latent and the
    rotary key, whole on each rank (DeepSeek-V2, arXiv 2405.04434, section 2.1).
    """
    if attention.kind == "linear":
        return 0
    if attention.kind == "mla":
        return attention.latent_dim * element_bytes
    return ceil_div(attention.kv_heads, tp) * (attention.qk_dim + attention.v_dim) * element_bytes


def growing_bytes(attention: Attention, tp: Column, element_bytes: int) -> Column:
    """Bytes that each further token adds on one tp rank.

    Nothing for linear attention and for a pure sliding window. With compression the compressed entries grow, beside
    a window of plain ones if there is one. A sparse-attention indexer's key is cached for each token.
    """
    windowed = attention.window is not None and attention.compression == 1
    entries = 0.0 if windowed else entry_bytes(attention, tp, element_bytes) / attention.compression
    return entries + attention.indexer_dim * element_bytes


def fixed_bytes(attention: Attention, tp: Column, element_bytes: int, tokens: int) -> Column:
    """Bytes on one tp rank that stop growing: the sliding window of a request of `tokens`, the recurrent state."""
    window = min(attention.window, tokens) if attention.window is not None else 0
    state = ceil_div(attention.state_elements, tp) * _STATE_BYTES
    return window * entry_bytes(attention, tp, element_bytes) + state


def attended_entries(attention: Attention, context: Column) -> Column:
    """Cached entries that one query at position `context` reads; 0 for linear attention."""
    return sum(minimum(slope * context, most) for slope, most in _reach(attention))


def mean_attended_entries(attention: Attention, tokens: Column) -> Column:
    """Mean over a prompt's positions, 0 to `tokens` (more than 0), of the entries that a query reads: half if causal."""
    return sum(_mean_reach(slope * tokens, most) for slope, most in _reach(attention))


def _mean_reach(last: Column, most: float) -> Column:
    """Mean of min(position, most) over positions 0 to `last`."""
    if math.isinf(most):
        return last / 2
    return where(last <= most, last / 2, most - most * most / (2 * last))


def _reach(attention: Attention) -> tuple[tuple[float, float], ...]:
    """What a query reads as the sum of min(slope · position, most).

    Sparse attention selects among the compressed entries, or among all; a window beside compressed entries is read
    whole.
    """
    if attention.kind == "linear":
        return ()
    window = math.inf if attention.window is None else attention.window
    selected = math.inf if attention.selected is None else attention.selected
    if attention.compression == 1:
        return ((1.0, min(window, selected)),)
    compressed = (1 / attention.compression, selected)
    return (compressed,) if attention.window is None else (compressed, (1.0, window))
