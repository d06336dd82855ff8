"""The paged KV cache of one rank: which page belongs to whom is the frontend's affair, chunks name their pages.

Shapes: P pages, K KV heads of the rank, D head width. Keys and values of a token lie side by side.
"""

import numpy as np
import torch
from torch import Tensor

from moe_runtime.step import PAGE_TOKENS


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros; on the CPU memory that is taken only as it is written to, so that rehearsed ranks stay small."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = int(np.prod(shape))
    return torch.from_numpy(np.zeros(count * dtype.itemsize, np.uint8)).view(dtype).view(shape)


class KvCache:
    """Keys and values of one layer, `[P, PAGE_TOKENS, 2K, D]`: keys in the first K of the heads, values in the rest."""

    def __init__(self, pages: int, heads: int, width: int, dtype: torch.dtype, device: str) -> None:
        self._dtype = dtype
        # Bytes are moved as integers, since float8 lacks the operations that move elements.
        self._moved = torch.uint8 if dtype.itemsize == 1 else dtype
        self._pages = zeros((pages, PAGE_TOKENS, 2 * heads, width), self._moved, device)
        self._tokens = self._pages.view(-1, 2 * heads, width)
        self._heads, self._width = heads, width

    def write(self, slots: Tensor, keys_values: Tensor) -> None:
        """Store `[T, 2K, D]` at slots `[T]`; a slot is a page times PAGE_TOKENS plus the place in it."""
        self._tokens.index_copy_(0, slots, keys_values.to(self._dtype).view(self._moved))

    def read(self, pages: Tensor, chunks: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of `chunks` equal runs of pages, each `[chunks, K, tokens, D]`."""
        stored = self._pages.index_select(0, pages).view(self._dtype).to(dtype)
        keys, values = stored.view(chunks, -1, 2, self._heads, self._width).transpose(1, 3).unbind(2)
        return keys, values
