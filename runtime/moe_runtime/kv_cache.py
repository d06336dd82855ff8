"""The paged KV cache of one rank: which page belongs to whom is the frontend's affair, chunks name their pages.

Shapes: P pages, K KV heads of the rank, D head width. Keys and values of a token lie side by side.
"""

import numpy as np
import torch
from torch import Tensor

from moe_runtime.formats import Formats
from moe_runtime.step import PAGE_TOKENS


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros; on the CPU memory that is taken only as it is written to, so that rehearsed ranks stay small."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = int(np.prod(shape))
    return torch.from_numpy(np.zeros(count * dtype.itemsize, np.uint8)).view(dtype).view(shape)


class KvCache:
    """Keys and values of one layer, `[P, PAGE_TOKENS, 2K, D]`: keys in the first K of the heads, values in the rest."""

    def __init__(self, pages: int, heads: int, width: int, formats: Formats, device: str) -> None:
        self._formats = formats
        self._same = formats.kv_cache == formats.compute
        # Bytes are moved as integers, since float8 lacks the operations that move elements.
        self._moved = torch.uint8 if formats.kv_cache.itemsize == 1 else formats.kv_cache
        self._pages = zeros((pages, PAGE_TOKENS, 2 * heads, width), self._moved, device)
        self._tokens = self._pages.view(-1, 2 * heads, width)
        self._split = (-1, 2, heads, width)

    def write(self, slots: Tensor, keys_values: Tensor) -> None:
        """Store `[T, 2K, D]` at slots `[T]`; a slot is a page times PAGE_TOKENS plus the place in it."""
        stored = keys_values if self._same else keys_values.to(self._formats.kv_cache).view(self._moved)
        self._tokens.index_copy_(0, slots, stored)

    def read(self, pages: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `chunks` equal runs of pages, each `[chunks, K, tokens, D]`."""
        stored = self._pages.index_select(0, pages)
        if not self._same:
            stored = stored.view(self._formats.kv_cache).to(self._formats.compute)
        keys, values = stored.view(chunks, *self._split).transpose(1, 3).unbind(2)
        return keys, values
