"""A shard's chunks of one micro-batch as tensors: made once, used by every layer of the stage.

Chunks are cut into pieces of at most PIECE_TOKENS, and pieces of one length and a like context are attended together;
a decode is a piece of one token, so there is no second path for it. Rows are ordered by piece, so that a group's are
neighbours. Shapes: T rows (tokens), B pieces of a group, L tokens of each, S cached tokens that they may see.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from moe_runtime.models.rope import Rope
from moe_runtime.step import PAGE_TOKENS, Chunk, Sampling

PIECE_TOKENS = 256
"""Query tokens of a piece, and of a group: bounds the mask of a long prompt."""
SMALL_CONTEXT_PAGES = 16
"""Contexts up to this are padded to each other; beyond it only to the next power of two."""


@dataclass(frozen=True, slots=True)
class _Piece:
    chunk: int
    start: int
    """Position of its first token."""
    length: int
    pages: int
    """Pages that hold its context, itself included."""

    @property
    def likeness(self) -> tuple[int, int]:
        """Pieces with the same are attended together."""
        return self.length, max(SMALL_CONTEXT_PAGES, 1 << (self.pages - 1).bit_length())


@dataclass(slots=True)
class Group:
    """Pieces that are attended together."""

    rows: slice
    """Rows of their tokens, B·L of them."""
    pieces: int
    """B."""
    pages: Tensor
    """Pages of each piece's context, `[B · S / PAGE_TOKENS]`; where shorter than S, padded with any page."""
    positions: Tensor
    """Of the query tokens, `[B, L]`."""
    context: int
    """S."""
    _masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, repeats: int, dtype: torch.dtype) -> Tensor:
        """0 where a query may look and -inf elsewhere, `[B, 1, repeats · L, S]`: causal, over a sliding window if any.

        `repeats` is the query heads that share a KV head; they lie one after another on the query dimension.
        """
        if (window, repeats) not in self._masks:
            queries = self.positions[:, None, :, None]
            keys = torch.arange(self.context, device=queries.device)
            hidden = keys > queries
            if window is not None:
                hidden |= keys <= queries - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
            self._masks[window, repeats] = mask.repeat(1, 1, repeats, 1)
        return self._masks[window, repeats]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the layers need to know of a micro-batch with tokens."""

    tokens: Tensor
    """Token ids, `[T]`."""
    positions: Tensor
    """Their positions, `[T]`."""
    slots: Tensor
    """Their slots in the KV cache, `[T]`."""
    cos: Tensor
    sin: Tensor
    """Rotation of each, `[T, 1, D]`."""
    spread: Tensor
    """Number of each by which a copy of its experts is chosen, `[T, 1]`."""
    groups: tuple[Group, ...]
    drawing: tuple[tuple[Chunk, Sampling], ...]
    """Chunks that want a token, and how it is drawn."""
    last: Tensor
    """Row of the last token of each of `drawing`."""


def make_batch(chunks: Sequence[Chunk], rope: Rope, shard: int, device: str) -> Batch:
    """The tensors of a shard's chunks, of which there is at least one."""
    pieces = sorted(_pieces(chunks), key=lambda piece: piece.likeness)
    rows: list[tuple[int, int, int]] = []
    last: dict[int, int] = {}
    for piece in pieces:
        chunk = chunks[piece.chunk]
        rows += _rows(chunk, piece)
        if piece.start + piece.length == chunk.start + len(chunk.tokens):
            last[piece.chunk] = len(rows) - 1
    tokens, positions, slots = torch.tensor(rows, dtype=torch.int64, device=device).t().contiguous()
    cos, sin = rope.at(positions)
    drawing = [(i, chunk.sampling) for i, chunk in enumerate(chunks) if chunk.sampling is not None]
    return Batch(
        tokens=tokens,
        positions=positions,
        slots=slots,
        cos=cos,
        sin=sin,
        spread=(positions + shard)[:, None],
        groups=tuple(_groups(chunks, pieces, positions)),
        drawing=tuple((chunks[i], sampling) for i, sampling in drawing),
        last=torch.tensor([last[i] for i, _ in drawing], dtype=torch.int64, device=device),
    )


def _pieces(chunks: Sequence[Chunk]) -> Iterator[_Piece]:
    for index, chunk in enumerate(chunks):
        end = chunk.start + len(chunk.tokens)
        for start in range(chunk.start, end, PIECE_TOKENS):
            length = min(PIECE_TOKENS, end - start)
            yield _Piece(index, start, length, -(-(start + length) // PAGE_TOKENS))


def _rows(chunk: Chunk, piece: _Piece) -> list[tuple[int, int, int]]:
    """Token, position and slot of each token of a piece."""
    return [
        (chunk.tokens[p - chunk.start], p, chunk.pages[p // PAGE_TOKENS] * PAGE_TOKENS + p % PAGE_TOKENS)
        for p in range(piece.start, piece.start + piece.length)
    ]


def _groups(chunks: Sequence[Chunk], pieces: Sequence[_Piece], positions: Tensor) -> Iterator[Group]:
    row = 0
    for (length, _), alike in groupby(pieces, key=lambda piece: piece.likeness):
        members = list(alike)
        most = PIECE_TOKENS // length
        for first in range(0, len(members), most):
            group = members[first : first + most]
            rows = slice(row, row + length * len(group))
            yield _group(chunks, group, rows, positions)
            row = rows.stop


def _group(chunks: Sequence[Chunk], group: Sequence[_Piece], rows: slice, positions: Tensor) -> Group:
    pages = max(piece.pages for piece in group)
    table = [page for piece in group for page in _padded(chunks[piece.chunk].pages[: piece.pages], pages)]
    return Group(
        rows=rows,
        pieces=len(group),
        pages=torch.tensor(table, dtype=torch.int64, device=positions.device),
        positions=positions[rows].view(len(group), -1),
        context=pages * PAGE_TOKENS,
    )


def _padded(pages: tuple[int, ...], count: int) -> tuple[int, ...]:
    return pages + (0,) * (count - len(pages))
