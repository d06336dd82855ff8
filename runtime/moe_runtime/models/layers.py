"""The layers, each of which reads its own share of the weights and knows what it must say to the other ranks.

Shapes: T tokens of the micro-batch, H hidden, D head width, Q query and K KV heads of this rank, F this rank's FFN
width, R rows that arrived at the rank's experts. What is split over tp: heads, FFN width, vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from torch import Tensor

from moe_runtime.checkpoint import Weights
from moe_runtime.comm.base import Communicator, Dispatched
from moe_runtime.formats import Formats
from moe_runtime.kv_cache import KvCache
from moe_runtime.models.batch import Batch, Group
from moe_runtime.models.spec import AttentionSpec, FfnSpec, MoeSpec


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands and what it builds its layers with."""

    ep: int
    tp: int
    tp_degree: int
    formats: Formats
    kv_pages: int
    device: str
    weights: Weights
    communicator: Communicator

    def read(self, name: str, *slices: slice) -> Tensor:
        """A copy of a slice of a weight, in the compute dtype and on the device."""
        return self.weights.read(name, *slices).to(self.device, self.formats.compute, copy=True).contiguous()

    def part(self, total: int) -> slice:
        """This rank's part of a dimension split over tp."""
        assert total % self.tp_degree == 0, "the plan proves that tp divides"
        size = total // self.tp_degree
        return slice(self.tp * size, (self.tp + 1) * size)

    def padded_part(self, total: int) -> slice:
        """This rank's part of a dimension that is padded to a multiple of tp; may end beyond it."""
        size = -(-total // self.tp_degree)
        return slice(self.tp * size, (self.tp + 1) * size)


Copies = tuple[tuple[int, ...], ...]


class LayerExperts(NamedTuple):
    """Where the plan puts a layer's experts."""

    copies: Copies
    """Physical experts of each logical one."""
    local: tuple[int, ...]
    """Logical expert of each physical one of this rank."""


class Norm:
    """Root-mean-square norm (arXiv 1910.07467)."""

    def __init__(self, name: str, eps: float, place: Place) -> None:
        self._weight = place.read(f"{name}.weight")
        self._shape = tuple(self._weight.shape)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """[…, H] to […, H]."""
        return torch.rms_norm(x, self._shape, self._weight, self._eps)


class Attention:
    """Grouped-query attention over the paged cache; query heads split over tp, KV heads too or, if fewer, replicated."""

    def __init__(self, spec: AttentionSpec, eps: float, place: Place) -> None:
        self._queries, self._kv, self._width = spec.heads // place.tp_degree, _kv_heads(spec, place), spec.head_dim
        self._repeats = self._queries // len(self._kv)
        self._window, self._eps, self._dtype = spec.window, eps, place.formats.compute
        self._communicator = place.communicator
        self._qkv, self._qkv_bias = _read_qkv(spec, self._kv, place)
        heads = place.part(spec.heads)
        columns = slice(heads.start * spec.head_dim, heads.stop * spec.head_dim)
        self._out = place.read(f"{spec.name}.o_proj.weight", slice(None), columns)
        # The bias is summed over tp with the rest, so one rank alone adds it.
        self._out_bias = place.read(f"{spec.name}.o_proj.bias") if spec.bias and place.tp == 0 else None
        self._head_norm = _read_head_norm(spec, self._queries, len(self._kv), place)
        self._cache = KvCache(place.kv_pages, len(self._kv), spec.head_dim, place.formats, place.device)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """[T, H] to [T, H], the same on each tp rank."""
        qkv = F.linear(x, self._qkv, self._qkv_bias).view(x.shape[0], -1, self._width)
        self._rotate(qkv[:, : self._queries + len(self._kv)], batch)
        self._cache.write(batch.slots, qkv[:, self._queries :])
        seen = [self._attend(qkv[group.rows, : self._queries], group) for group in batch.groups]
        attended = seen[0] if len(seen) == 1 else torch.cat(seen)
        return self._communicator.all_reduce(F.linear(attended, self._out, self._out_bias))

    def _rotate(self, heads: Tensor, batch: Batch) -> None:
        """Normalise heads [T, Q + K, D] where the model does, and turn them by their positions, in place."""
        x = heads
        if self._head_norm is not None:
            x = torch.rms_norm(heads, (self._width,), None, self._eps) * self._head_norm
        torch.addcmul(x * batch.cos, x.roll(self._width // 2, -1), batch.sin, out=heads)

    def _attend(self, queries: Tensor, group: Group) -> Tensor:
        """[B·L, Q, D] to [B·L, Q·D]. Query heads that share a KV head stand one after another on the query axis."""
        pieces, kv, repeats, width = group.pieces, len(self._kv), self._repeats, self._width
        q = queries.view(pieces, -1, kv, repeats, width).permute(0, 2, 3, 1, 4).reshape(pieces, kv, -1, width)
        keys, values = self._cache.read(group.pages, pieces)
        mask = group.mask(self._window, repeats, self._dtype)
        seen = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        by_token = seen.view(pieces, kv, repeats, -1, width).permute(0, 3, 1, 2, 4)
        return by_token.reshape(queries.shape[0], -1)


def _kv_heads(spec: AttentionSpec, place: Place) -> range:
    """KV heads that this rank's query heads read."""
    first = place.tp * spec.kv_heads // place.tp_degree
    return range(first, first + max(1, spec.kv_heads // place.tp_degree))


def _read_qkv(spec: AttentionSpec, kv: range, place: Place) -> tuple[Tensor, Tensor | None]:
    """Weight [(Q + 2K)·D, H] and bias of the rank's heads: queries, keys, values."""
    heads = place.part(spec.heads)
    parts = {
        "q_proj": slice(heads.start * spec.head_dim, heads.stop * spec.head_dim),
        "k_proj": slice(kv.start * spec.head_dim, kv.stop * spec.head_dim),
        "v_proj": slice(kv.start * spec.head_dim, kv.stop * spec.head_dim),
    }
    weight = torch.cat([place.read(f"{spec.name}.{part}.weight", rows) for part, rows in parts.items()])
    if not spec.bias:
        return weight, None
    return weight, torch.cat([place.read(f"{spec.name}.{part}.bias", rows) for part, rows in parts.items()])


def _read_head_norm(spec: AttentionSpec, queries: int, kv: int, place: Place) -> Tensor | None:
    """Weight of the head norm for queries and keys together, [Q + K, D]."""
    if not spec.head_norm:
        return None
    of_query, of_key = (place.read(f"{spec.name}.{norm}.weight") for norm in ("q_norm", "k_norm"))
    return torch.cat((of_query.expand(queries, -1), of_key.expand(kv, -1)))


class Ffn:
    """down(silu(gate(x)) · up(x)) with gate and up split by column and down by row: a partial sum over tp."""

    def __init__(self, spec: FfnSpec, place: Place) -> None:
        part = place.part(spec.width)
        gate, up = (place.read(f"{name}.weight", part) for name in (spec.names.gate, spec.names.up))
        self._gate_up = torch.cat((gate, up))
        self._down = place.read(f"{spec.names.down}.weight", slice(None), part)

    def __call__(self, x: Tensor) -> Tensor:
        """[R, H] to [R, H]."""
        gate, up = F.linear(x, self._gate_up).chunk(2, -1)
        return F.linear(F.silu(gate).mul_(up), self._down)


class DenseLayer:
    """A dense FFN as a layer's second half."""

    def __init__(self, spec: FfnSpec, place: Place) -> None:
        self._ffn = Ffn(spec, place)
        self._communicator = place.communicator

    def __call__(self, x: Tensor, batch: Batch | None) -> Tensor:
        """[T, H] to [T, H], the same on each tp rank; nothing to do for a shard without tokens."""
        return x if batch is None else self._communicator.all_reduce(self._ffn(x))


class MoeLayer:
    """Routed experts as a layer's second half. Every shard of the stage takes part, with or without tokens."""

    def __init__(self, spec: MoeSpec, experts: LayerExperts, place: Place) -> None:
        self._router = place.read(f"{spec.router}.weight")
        self._top_k, self._scoring = spec.top_k, spec.scoring
        self._copies, self._counts = _copy_table(experts.copies, place.device)
        self._experts = tuple(Ffn(spec.experts[logical], place) for logical in experts.local)
        self._communicator = place.communicator
        self._nothing = (
            torch.empty((0, spec.top_k), dtype=torch.int64, device=place.device),
            torch.empty((0, spec.top_k), dtype=place.formats.compute, device=place.device),
        )

    def __call__(self, x: Tensor, batch: Batch | None) -> Tensor:
        """[T, H] to [T, H], the same on each tp rank."""
        experts, weights = self._nothing if batch is None else self._route(x, batch)
        arrived = self._communicator.dispatch(x, experts)
        return self._communicator.combine(self._compute(arrived), arrived, weights)

    def _route(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Physical experts [T, top_k] of each token, and their weights."""
        scores = F.linear(x, self._router).float()
        if self._scoring == "softmax_of_all":
            weights, logical = scores.softmax(-1).topk(self._top_k)
        else:
            chosen, logical = scores.topk(self._top_k)
            weights = chosen.softmax(-1)
        if self._copies is None:
            return logical, weights.to(x.dtype)
        turn = batch.spread % (self._copies.shape[1] if self._counts is None else self._counts[logical])
        return self._copies[logical, turn], weights.to(x.dtype)

    def _compute(self, arrived: Dispatched) -> Tensor:
        """Each local expert's partial sum over its rows, [R, H]."""
        if not arrived.hidden.shape[0]:
            return arrived.hidden
        busy = [(expert, rows) for expert, rows in zip(self._experts, arrived.counts, strict=True) if rows]
        if len(busy) == 1:
            return busy[0][0](arrived.hidden)
        pieces = torch.split(arrived.hidden, [rows for _, rows in busy])
        return torch.cat([expert(piece) for (expert, _), piece in zip(busy, pieces, strict=True)])


def _copy_table(copies: Copies, device: str) -> tuple[Tensor | None, Tensor | None]:
    """Copies of each logical expert in turn, [logical, most copies], and how many each has, [logical].

    No table where physical and logical are the same, and no numbers where a turn through the table is even without
    them.
    """
    if copies == tuple((expert,) for expert in range(len(copies))):
        return None, None
    counts = [len(of_one) for of_one in copies]
    most = max(counts)
    table = [[of_one[i % len(of_one)] for i in range(most)] for of_one in copies]
    uneven = any(most % count for count in counts)
    return (
        torch.tensor(table, dtype=torch.int64, device=device),
        torch.tensor(counts, dtype=torch.int64, device=device) if uneven else None,
    )


class Embedding:
    """Token embedding, its vocabulary split over tp and padded."""

    def __init__(self, name: str, vocab: int, place: Place) -> None:
        self.weight = read_vocabulary(name, vocab, place)
        self._first = place.padded_part(vocab).start
        self._communicator = place.communicator

    def __call__(self, tokens: Tensor) -> Tensor:
        """[T] to [T, H], the same on each tp rank."""
        here = tokens - self._first
        known = (here >= 0) & (here < len(self.weight))
        found = F.embedding(here.where(known, 0), self.weight) * known[:, None]
        return self._communicator.all_reduce(found)


class Head:
    """Final norm and the head, its vocabulary split over tp and padded."""

    def __init__(self, norm: Norm, weight: Tensor, vocab: int, communicator: Communicator) -> None:
        self._norm, self._weight, self._vocab = norm, weight, vocab
        self._communicator = communicator

    def __call__(self, x: Tensor) -> Tensor:
        """[B, H] to logits [B, vocabulary], float32."""
        logits = self._communicator.all_gather(F.linear(self._norm(x), self._weight))
        return logits[:, : self._vocab].float()


def read_vocabulary(name: str, vocab: int, place: Place) -> Tensor:
    """This rank's rows of an embedding or head, zeros beyond the vocabulary."""
    part = place.padded_part(vocab)
    rows = place.read(f"{name}.weight", slice(min(part.start, vocab), min(part.stop, vocab)))
    return F.pad(rows, (0, 0, 0, part.stop - part.start - len(rows)))
