"""What one rank holds of a layer: the split over tp of each class of weights, and the layers that are alike.

A model of 94 layers has one to four kinds of them, so everything that costs time is computed once a kind.
"""

from dataclasses import dataclass
from functools import lru_cache

from moe_plan.columns import Column, minimum
from moe_plan.model import DenseFfn, Formats, Layer, ModelShape
from moe_plan.plan import ExpertMap, Stage


def ceil_div(dividend: Column, divisor: Column) -> Column:
    """Quotient of integers, rounded up."""
    return -(-dividend // divisor)


def split_width(width: int, tp: Column, block: int) -> Column:
    """Columns of an FFN width on one tp rank: quantisation blocks are dealt whole, the last shard padded."""
    return ceil_div(ceil_div(width, block), tp) * block


def vocabulary_rows(vocab: int, tp: Column) -> Column:
    """Rows of embedding or head on one tp rank: the vocabulary is padded to a multiple of tp."""
    return ceil_div(vocab, tp)


@dataclass(frozen=True, slots=True)
class LayerShare:
    """Parameters of one layer on its fullest tp rank, padding included; arrays where tp is one."""

    attention: Column
    expert: Column
    """One physical expert's; 0 without experts."""
    shared_experts: Column
    dense_ffn: Column
    other: int
    """Norms and router, held whole."""


def layer_share(layer: Layer, formats: Formats, tp: Column, expert_tp: Column | None = None) -> LayerShare:
    """A layer's parameters on its fullest tp rank.

    Queries are split by head; keys and values by KV head, and replicated once tp exceeds their number; FFNs by width
    in whole quantisation blocks. Biases of an FFN count as split with it. Routed experts are split over `expert_tp`
    where an engine splits them otherwise than the rest.
    """
    attention = layer.attention
    held = (
        ceil_div(attention.query_params, tp)
        + ceil_div(attention.kv_params, minimum(tp, attention.kv_heads))
        + attention.replicated_params
    )
    ffn = layer.ffn
    if isinstance(ffn, DenseFfn):
        return LayerShare(held, 0, 0, _ffn_share(ffn.params, ffn.width, tp, formats.linear.block), layer.norm_params)
    return LayerShare(
        attention=held,
        expert=_ffn_share(ffn.expert_params, ffn.width, tp if expert_tp is None else expert_tp, formats.experts.block),
        shared_experts=_ffn_share(ffn.shared_params, ffn.shared_width, tp, formats.linear.block),
        dense_ffn=0,
        other=layer.norm_params + ffn.router_params,
    )


def _ffn_share(params: int, width: int, tp: Column, block: int) -> Column:
    return ceil_div(params * split_width(width, tp, block), width) if width else params


def embedding_share(shape: ModelShape, tp: Column) -> Column:
    """Parameters of the embedding on one tp rank of the stage that holds it."""
    return _rows_of(shape.embedding_params, shape, tp)


def head_share(shape: ModelShape, stage: Stage, tp: int) -> int:
    """Parameters of the head on one tp rank of a stage.

    0 where the stage has no head, or where the head shares the weights of an embedding on the same stage; one that
    shares them with another stage's is a copy.
    """
    return int(head_held(shape, int(stage.embedding), int(stage.head), tp))


def head_held(shape: ModelShape, embedding: Column, head: Column, tp: int) -> Column:
    """Parameters of the head on one tp rank of stages that hold embedding or head (1) or not (0), or columns of both."""
    own = 1 if shape.head_params else 1 - embedding
    return head * own * _rows_of(shape.head_params or shape.embedding_params, shape, tp)


def _rows_of(params: int, shape: ModelShape, tp: Column) -> Column:
    return ceil_div(params * vocabulary_rows(shape.vocab, tp), shape.vocab)


def busiest_load(experts: ExpertMap) -> float:
    """Share of a layer's routed tokens that the busiest rank computes, when all logical experts are equally wanted.

    Tokens of an expert are dealt evenly over its copies. A map made from measured load is taken to even that out.
    """
    if experts.exceptions:
        return experts.per_rank / (experts.logical + experts.redundant)
    return _busiest_load(experts.logical, experts.redundant, experts.per_rank)


@lru_cache(maxsize=256)
def _busiest_load(logical: int, redundant: int, per_rank: int) -> float:
    """The same for even dealing: the first `extra` experts have a copy more than the others.

    A rank's experts are neighbours, cyclically, so what differs is how many of them are among the first; ranks that
    start at the same expert are alike, and at most `logical` are looked at however many copies there are.
    """
    base, extra = divmod(logical + redundant, logical)

    def among_first(start: int) -> int:
        end = start + per_rank
        return min(end, extra) - min(start, extra) + min(max(end - logical, 0), extra)

    ranks = (logical + redundant) // per_rank
    starts = {rank * per_rank % logical for rank in range(min(ranks, logical))}
    fewest = min(among_first(start) for start in starts)
    return (fewest / (base + 1) + (per_rank - fewest) / base) / logical


class _Identity:
    """A key that finds a shape by identity, since hashing a hundred layers costs more than planning them."""

    __slots__ = ("shape",)

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape

    def __hash__(self) -> int:
        return id(self.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.shape is self.shape


@lru_cache(maxsize=32)
def _kinds(of: _Identity) -> tuple[tuple[Layer, ...], tuple[int, ...], tuple[int, ...]]:
    """The distinct layers, the kind of each layer, and how many there are of each kind.

    Layers whose parts are the same objects are not compared: a hash of each takes as long as the rest of an estimate.
    """
    numbers: dict[Layer, int] = {}
    of_parts: dict[tuple[int, int, int], int] = {}
    kind_of = []
    for layer in of.shape.layers:
        parts = (id(layer.attention), id(layer.ffn), layer.norm_params)
        if parts not in of_parts:
            of_parts[parts] = numbers.setdefault(layer, len(numbers))
        kind_of.append(of_parts[parts])
    return tuple(numbers), tuple(kind_of), tuple(map(kind_of.count, range(len(numbers))))


def layer_kinds(shape: ModelShape) -> tuple[Layer, ...]:
    """The distinct layers of a model, in order of appearance."""
    return _kinds(_Identity(shape))[0]


def kind_of_each(shape: ModelShape) -> tuple[int, ...]:
    """For each layer the index of its kind in `layer_kinds`."""
    return _kinds(_Identity(shape))[1]


def layer_counts(shape: ModelShape) -> tuple[int, ...]:
    """How many layers of each kind the whole model has, by index into `layer_kinds`."""
    return _kinds(_Identity(shape))[2]


def kinds_in(shape: ModelShape, stage: Stage) -> dict[int, int]:
    """How many layers of each kind a stage has, by index into `layer_kinds`."""
    kinds = kind_of_each(shape)[stage.first_layer : stage.first_layer + stage.layers]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
