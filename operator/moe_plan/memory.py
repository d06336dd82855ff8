"""Bytes on the fullest rank of a stage, part by part, and how many requests its KV cache holds.

Weights are dealt as `shares.py` says. Buffers are sized for a step of maxBatchTokens on every shard at once. What the
driver, the communication library and fragmentation take is not counted: memoryReserve is for them. The formulas take
one stage, or columns of stages of many candidates at once.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from moe_plan.columns import Column, ceil, maximum, minimum, where
from moe_plan.cost.constants import constants
from moe_plan.hardware import Hardware
from moe_plan.kv import ELEMENT_BYTES, fixed_bytes, growing_bytes
from moe_plan.layout import Layout
from moe_plan.model import Attention, DenseFfn, Layer, ModelShape, MoeFfn
from moe_plan.plan import ExpertMap, KvCache, Limits, Stage, StageMemory
from moe_plan.shares import (
    LayerShare,
    busiest_load,
    ceil_div,
    embedding_share,
    head_held,
    kinds_in,
    layer_kinds,
    layer_share,
    split_width,
    vocabulary_rows,
)
from moe_plan.spec import Workload

_FLOAT32_BYTES = ELEMENT_BYTES["float32"]


@dataclass(frozen=True)
class Held:
    """What a rank of a stage holds; columns where there are many candidates."""

    ep: Column
    tp: Column
    pp: Column
    experts: int
    """Logical experts."""
    per_rank: Column
    """Physical experts of a MoE layer on a rank."""
    busiest: Column
    """Share of a layer's routed tokens that the busiest rank computes."""
    counts: dict[int, Column]
    """Layers of each kind, by index into `layer_kinds`."""
    embedding: Column
    """1 where the stage holds the embedding, else 0."""
    head: Column
    """1 where the stage holds the head, else 0."""

    @cached_property
    def layers(self) -> Column:
        """Layers of the stage."""
        return sum(self.counts.values())


def held(shape: ModelShape, layout: Layout, experts: ExpertMap, stage: Stage) -> Held:
    """What the fullest rank of one stage holds."""
    return Held(
        ep=layout.ep,
        tp=layout.tp,
        pp=layout.pp,
        experts=experts.logical,
        per_rank=experts.per_rank,
        busiest=busiest_load(experts),
        counts=kinds_in(shape, stage),
        embedding=int(stage.embedding),
        head=int(stage.head),
    )


@dataclass(frozen=True, slots=True)
class RankParams:
    """Parameters that one rank of a stage holds, by class, padding included. Each may be a column."""

    attention: Column
    experts: Column
    redundant_experts: Column
    shared_experts: Column
    dense_ffn: Column
    embedding: Column
    head: Column
    other: Column
    """Norms and routers."""

    @property
    def total(self) -> Column:
        """All of them."""
        split = self.attention + self.experts + self.redundant_experts + self.shared_experts + self.dense_ffn
        return split + self.embedding + self.head + self.other


def rank_params(shape: ModelShape, layout: Layout, experts: ExpertMap, stage: Stage) -> RankParams:
    """Parameters on the fullest rank of a stage. Experts and redundant experts are the mean over ep."""
    return _params(shape, held(shape, layout, experts, stage))


def _params(shape: ModelShape, stage: Held) -> RankParams:
    """A rank's physical experts are whole in number; which of them are the copies differs from rank to rank."""
    shares = [(share, count) for _, share, count in _layers(shape, stage)]
    expert = sum(share.expert * count for share, count in shares)
    logical = stage.experts / stage.ep
    return RankParams(
        attention=sum(share.attention * count for share, count in shares),
        experts=logical * expert,
        redundant_experts=(stage.per_rank - logical) * expert,
        shared_experts=sum(share.shared_experts * count for share, count in shares),
        dense_ffn=sum(share.dense_ffn * count for share, count in shares),
        embedding=stage.embedding * embedding_share(shape, stage.tp),
        head=head_held(shape, stage.embedding, stage.head, stage.tp),
        other=sum(share.other * count for share, count in shares) + stage.head * shape.final_norm_params,
    )


def _layers(shape: ModelShape, stage: Held) -> list[tuple[Layer, LayerShare, Column]]:
    kinds = layer_kinds(shape)
    return [
        (kinds[kind], layer_share(kinds[kind], shape.formats, stage.tp), count) for kind, count in stage.counts.items()
    ]


def stage_memory(
    shape: ModelShape,
    layout: Layout,
    experts: ExpertMap,
    stage: Stage,
    hardware: Hardware,
    limits: Limits,
    workload: Workload,
    kv_cache_dtype: str,
) -> StageMemory:
    """Bytes on the fullest rank of a stage, as `stage_sizes` counts them."""
    sizes = stage_sizes(shape, held(shape, layout, experts, stage), hardware, limits, workload, kv_cache_dtype)
    return StageMemory(pp=stage.pp, total=sum(sizes.values()), **sizes)


def stage_sizes(
    shape: ModelShape, stage: Held, hardware: Hardware, limits: Limits, workload: Workload, kv_cache_dtype: str
) -> dict[str, Column]:
    """Bytes of each part, named as in `StageMemory`.

    `kv_cache` is all that the other parts leave of the usable memory; where that is less than one request of
    maxModelLength needs, it is that need, so that the total exceeds the usable memory by what is missing. A plan for
    training has no KV cache.
    """
    params, formats = _params(shape, stage), shape.formats
    linear, routed, other = (f.bytes_per_param for f in (formats.linear, formats.experts, formats.other))
    training = workload.mode == "training"
    parts = {
        "attention": params.attention * linear,
        "experts": params.experts * routed,
        "redundant_experts": params.redundant_experts * routed,
        "shared_experts": params.shared_experts * linear,
        "dense_ffn": params.dense_ffn * linear,
        "embedding": params.embedding * other,
        "head": params.head * other,
        "other_weights": params.other * other,
        "activations": _activations(shape, stage, limits, workload),
        "communication": _communication(shape, stage, limits),
        "gradients": params.total * constants().gradient_bytes if training else 0,
        "optimizer": params.total * constants().optimizer_bytes if training else 0,
    }
    sizes = {part: ceil(size) for part, size in parts.items()}
    left = math.floor(hardware.usable_bytes) - sum(sizes.values())
    length = limits.max_model_length
    need = _Cache.of(shape, stage, kv_cache_dtype, length).request_bytes(length)
    sizes["kv_cache"] = 0 if training else maximum(left, need)
    return sizes


def kv_cache(
    shape: ModelShape,
    layout: Layout,
    stages: tuple[Stage, ...],
    memory: tuple[StageMemory, ...],
    limits: Limits,
    workload: Workload,
    kv_cache_dtype: str,
) -> KvCache:
    """What the KV cache of one shard holds: the least of its stages, since a request is cached on all of them."""
    length = workload.input_tokens + workload.output_tokens
    longest = limits.max_model_length
    counts = [kinds_in(shape, stage) for stage in stages]
    at_most = [_Cache.of_layers(shape, layout.tp, count, kv_cache_dtype, longest) for count in counts]
    typical = [_Cache.of_layers(shape, layout.tp, count, kv_cache_dtype, length) for count in counts]
    sizes = [stage.kv_cache for stage in memory]
    requests = min(size // max(1, of.request_bytes(length)) for size, of in zip(sizes, typical, strict=True))
    return KvCache(
        bytes_per_token=math.ceil(max(of.growing for of in at_most)),
        bytes_per_request=max(of.fixed for of in at_most),
        tokens_per_shard=min(of.tokens(size, requests, length) for size, of in zip(sizes, typical, strict=True)),
        requests_per_shard=requests,
    )


def requests_held(shape: ModelShape, stage: Held, cache: Column, workload: Workload, kv_cache_dtype: str) -> Column:
    """Requests of the workload's length that fit at once into `cache` bytes of a stage."""
    length = workload.input_tokens + workload.output_tokens
    return cache // maximum(1, _Cache.of(shape, stage, kv_cache_dtype, length).request_bytes(length))


@dataclass(frozen=True, slots=True)
class _Cache:
    """The KV cache of one stage on one rank: bytes a token, and bytes a request of some length beside them."""

    growing: Column
    fixed: Column

    @classmethod
    def of(cls, shape: ModelShape, stage: Held, dtype: str, length: int) -> "_Cache":
        return cls.of_layers(shape, stage.tp, stage.counts, dtype, length)

    @classmethod
    def of_layers(cls, shape: ModelShape, tp: Column, counts: dict[int, Column], dtype: str, length: int) -> "_Cache":
        element, kinds = ELEMENT_BYTES[dtype], layer_kinds(shape)
        counted = [(kinds[kind].attention, count) for kind, count in counts.items()]
        return cls(
            growing=sum(growing_bytes(attention, tp, element) * count for attention, count in counted),
            fixed=sum(fixed_bytes(attention, tp, element, length) * count for attention, count in counted),
        )

    def request_bytes(self, tokens: int) -> Column:
        return ceil(self.growing * tokens) + self.fixed

    def tokens(self, size: int, requests: int, length: int) -> int:
        """Tokens that fit beside the fixed part of `requests`; those of the requests where none grows."""
        if not self.growing:
            return requests * length
        return max(0, math.floor((size - requests * int(self.fixed)) / float(self.growing)))


def arriving_rows(ffn: MoeFfn, ep: Column, per_rank: Column, busiest: Column, limits: Limits) -> Column:
    """Rows that a rank's experts must be ready to take in one step, when every shard computes maxBatchTokens.

    The capacity factor bounds them where there is one; else a constant multiple of the busiest rank's even load, at
    most as many as exist.
    """
    tokens = limits.max_batch_tokens * ep
    even = tokens * ffn.top_k * busiest
    factor = limits.capacity_factor or where(ep == 1, 1.0, constants().arrival_skew)
    return ceil(minimum(even * factor, tokens * minimum(ffn.top_k, per_rank)))


def _activations(shape: ModelShape, stage: Held, limits: Limits, workload: Workload) -> Column:
    """Working set of the widest layer, the logits, and for training one checkpointed input a layer.

    Checkpoints a layer: Chen et al., arXiv 1604.06174.
    """
    tokens, training = limits.max_batch_tokens, workload.mode == "training"
    widest = maximum(
        0,
        *(
            (count > 0)
            * maximum(
                _attention_elements(layer.attention, stage.tp, limits), _ffn_elements(layer, shape, stage, limits)
            )
            for layer, _, count in _layers(shape, stage)
        ),
    )
    permuted = where(stage.ep == 1, _row_buffers(shape, stage, limits), 0)
    copies = constants().hidden_copies + (stage.layers if training else 0)
    elements = copies * tokens * shape.hidden + widest + permuted
    rows = tokens if training else min(tokens, workload.concurrency)
    logits = stage.head * (rows * vocabulary_rows(shape.vocab, stage.tp))
    return elements * ELEMENT_BYTES[shape.formats.compute] + logits * _FLOAT32_BYTES


def _attention_elements(attention: Attention, tp: Column, limits: Limits) -> Column:
    """Elements of queries, keys, values and output on one tp rank."""
    heads = ceil_div(attention.heads, tp) + ceil_div(attention.kv_heads, tp)
    return limits.max_batch_tokens * heads * (attention.qk_dim + attention.v_dim)


def _ffn_elements(layer: Layer, shape: ModelShape, stage: Held, limits: Limits) -> Column:
    """Elements of an FFN's intermediate results: one [rows, width] for each of its matrices."""
    ffn, formats, tp = layer.ffn, shape.formats, stage.tp
    if isinstance(ffn, DenseFfn):
        return limits.max_batch_tokens * ffn.matrices * split_width(ffn.width, tp, formats.linear.block)
    rows = arriving_rows(ffn, stage.ep, stage.per_rank, stage.busiest, limits)
    routed = rows * ffn.matrices * split_width(ffn.width, tp, formats.experts.block)
    return routed + limits.max_batch_tokens * ffn.matrices * split_width(ffn.shared_width, tp, formats.linear.block)


def _row_buffers(shape: ModelShape, stage: Held, limits: Limits) -> Column:
    """Elements of the rows that arrive at a rank's experts and of those that leave them, `[rows, hidden]` each."""
    return maximum(
        0,
        *(
            (count > 0)
            * (2 * (layer.ffn.expert_hidden or shape.hidden))
            * arriving_rows(layer.ffn, stage.ep, stage.per_rank, stage.busiest, limits)
            for layer, _, count in _layers(shape, stage)
            if isinstance(layer.ffn, MoeFfn)
        ),
    )


def _communication(shape: ModelShape, stage: Held, limits: Limits) -> Column:
    """Dispatch and combine buffers, and staging for all-reduce (one [tokens, hidden]) and stage boundaries (two)."""
    rows = where(stage.ep > 1, _row_buffers(shape, stage, limits), 0)
    staging = (stage.tp > 1) + 2 * (stage.pp > 1)
    return (rows + staging * limits.max_batch_tokens * shape.hidden) * ELEMENT_BYTES[shape.formats.compute]
