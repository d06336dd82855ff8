"""Bytes on the fullest rank of a stage, part by part, and how many requests its KV cache holds.

Weights are dealt as `shares.py` says. Buffers are sized for a step of maxBatchTokens on every shard at once. What the
driver, the communication library and fragmentation take is not counted: memoryReserve is for them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from moe_plan.cost.constants import constants
from moe_plan.hardware import Hardware
from moe_plan.kv import ELEMENT_BYTES, fixed_bytes, growing_bytes
from moe_plan.layout import Layout
from moe_plan.model import DenseFfn, Layer, ModelShape, MoeFfn
from moe_plan.plan import ExpertMap, KvCache, Limits, Stage, StageMemory
from moe_plan.shares import (
    LayerShare,
    busiest_load,
    ceil_div,
    embedding_share,
    experts_per_rank,
    head_share,
    kinds_in,
    layer_kinds,
    layer_share,
    split_width,
    vocabulary_rows,
)
from moe_plan.spec import Workload

_FLOAT32_BYTES = ELEMENT_BYTES["float32"]


@dataclass(frozen=True, slots=True)
class RankParams:
    """Parameters that one rank of a stage holds, by class, padding included."""

    attention: int
    experts: float
    redundant_experts: float
    shared_experts: int
    dense_ffn: int
    embedding: int
    head: int
    other: int
    """Norms and routers."""

    @property
    def total(self) -> float:
        """All of them."""
        split = self.attention + self.experts + self.redundant_experts + self.shared_experts + self.dense_ffn
        return split + self.embedding + self.head + self.other


def rank_params(shape: ModelShape, layout: Layout, experts: ExpertMap, stage: Stage) -> RankParams:
    """Parameters on the fullest rank of a stage. Experts and redundant experts are the mean over ep."""
    shares = list(_layer_shares(shape, layout, stage))

    def over_layers(part: Callable[[LayerShare], int]) -> int:
        return sum(part(share) * count for _, share, count in shares)

    logical, redundant = 0.0, 0.0
    for layer, share, count in shares:
        here = experts_per_rank(layer, experts)
        logical += here[0] * share.expert * count
        redundant += here[1] * share.expert * count
    return RankParams(
        attention=over_layers(lambda share: share.attention),
        experts=logical,
        redundant_experts=redundant,
        shared_experts=over_layers(lambda share: share.shared_experts),
        dense_ffn=over_layers(lambda share: share.dense_ffn),
        embedding=embedding_share(shape, layout.tp) if stage.embedding else 0,
        head=head_share(shape, stage, layout.tp),
        other=over_layers(lambda share: share.other) + (shape.final_norm_params if stage.head else 0),
    )


def _layer_shares(shape: ModelShape, layout: Layout, stage: Stage) -> Iterator[tuple[Layer, LayerShare, int]]:
    kinds = layer_kinds(shape)
    for kind, count in kinds_in(shape, stage).items():
        yield kinds[kind], layer_share(kinds[kind], shape.formats, layout.tp), count


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
    """Bytes on the fullest rank of a stage.

    `kv_cache` is all that the other parts leave of the usable memory; where that is less than one request of
    maxModelLength needs, it is that need, so that `total` exceeds the usable memory by what is missing. A plan for
    training has no KV cache.
    """
    params = rank_params(shape, layout, experts, stage)
    linear, routed = shape.formats.linear.bytes_per_param, shape.formats.experts.bytes_per_param
    other = shape.formats.other.bytes_per_param
    serving = workload.mode == "serving"
    parts = {
        "attention": params.attention * linear,
        "experts": params.experts * routed,
        "redundant_experts": params.redundant_experts * routed,
        "shared_experts": params.shared_experts * linear,
        "dense_ffn": params.dense_ffn * linear,
        "embedding": params.embedding * other,
        "head": params.head * other,
        "other_weights": params.other * other,
        "activations": _activations(shape, layout, experts, stage, limits, workload),
        "communication": _communication(shape, layout, experts, stage, limits),
        "gradients": 0.0 if serving else params.total * constants().gradient_bytes,
        "optimizer": 0.0 if serving else params.total * constants().optimizer_bytes,
    }
    sizes = {part: math.ceil(size) for part, size in parts.items()}
    left = math.floor(hardware.usable_bytes) - sum(sizes.values())
    length = limits.max_model_length
    need = _Cache.of(shape, layout, stage, kv_cache_dtype, length).request_bytes(length) if serving else 0
    sizes["kv_cache"] = max(left, need) if serving else 0
    return StageMemory(pp=stage.pp, total=sum(sizes.values()), **sizes)


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
    at_most = [_Cache.of(shape, layout, stage, kv_cache_dtype, longest) for stage in stages]
    typical = [_Cache.of(shape, layout, stage, kv_cache_dtype, length) for stage in stages]
    sizes = [stage.kv_cache for stage in memory]
    requests = min(size // max(1, of.request_bytes(length)) for size, of in zip(sizes, typical, strict=True))
    return KvCache(
        bytes_per_token=math.ceil(max(of.growing for of in at_most)),
        bytes_per_request=max(of.fixed for of in at_most),
        tokens_per_shard=min(of.tokens(size, requests, length) for size, of in zip(sizes, typical, strict=True)),
        requests_per_shard=requests,
    )


@dataclass(frozen=True, slots=True)
class _Cache:
    """The KV cache of one stage on one rank: bytes a token, and bytes a request of some length beside them."""

    growing: float
    fixed: int

    @classmethod
    def of(cls, shape: ModelShape, layout: Layout, stage: Stage, dtype: str, length: int) -> "_Cache":
        element, kinds = ELEMENT_BYTES[dtype], layer_kinds(shape)
        counted = [(kinds[kind].attention, count) for kind, count in kinds_in(shape, stage).items()]
        return cls(
            growing=sum(growing_bytes(attention, layout.tp, element) * count for attention, count in counted),
            fixed=sum(fixed_bytes(attention, layout.tp, element, length) * count for attention, count in counted),
        )

    def request_bytes(self, tokens: int) -> int:
        return math.ceil(self.growing * tokens) + self.fixed

    def tokens(self, size: int, requests: int, length: int) -> int:
        """Tokens that fit beside the fixed part of `requests`; those of the requests where none grows."""
        if not self.growing:
            return requests * length
        return max(0, math.floor((size - requests * self.fixed) / self.growing))


def arriving_rows(ffn: MoeFfn, layout: Layout, experts: ExpertMap, limits: Limits) -> int:
    """Rows that a rank's experts must be ready to take in one step, when every shard computes maxBatchTokens.

    The capacity factor bounds them where there is one; else a constant multiple of the busiest rank's even load, at
    most as many as exist.
    """
    tokens = limits.max_batch_tokens * layout.ep
    even = tokens * ffn.top_k * busiest_load(experts)
    factor = limits.capacity_factor or (1.0 if layout.ep == 1 else constants().arrival_skew)
    return math.ceil(min(even * factor, tokens * min(ffn.top_k, experts.per_rank)))


def _activations(
    shape: ModelShape, layout: Layout, experts: ExpertMap, stage: Stage, limits: Limits, workload: Workload
) -> int:
    """Working set of the widest layer, the logits, and for training one checkpointed input a layer.

    Checkpoints a layer: Chen et al., arXiv 1604.06174.
    """
    tokens, training = limits.max_batch_tokens, workload.mode == "training"
    widest = max(
        max(_attention_elements(layer, layout, limits), _ffn_elements(layer, shape, layout, experts, limits))
        for layer, _, _ in _layer_shares(shape, layout, stage)
    )
    permuted = _row_buffers(shape, layout, experts, stage, limits) if layout.ep == 1 else 0
    copies = constants().hidden_copies + (stage.layers if training else 0)
    elements = copies * tokens * shape.hidden + widest + permuted
    rows = tokens if training else min(tokens, workload.concurrency)
    logits = rows * vocabulary_rows(shape.vocab, layout.tp) if stage.head else 0
    return elements * ELEMENT_BYTES[shape.formats.compute] + logits * _FLOAT32_BYTES


def _attention_elements(layer: Layer, layout: Layout, limits: Limits) -> int:
    """Elements of queries, keys, values and output on one tp rank."""
    attention = layer.attention
    heads = ceil_div(attention.heads, layout.tp) + ceil_div(attention.kv_heads, layout.tp)
    return limits.max_batch_tokens * heads * (attention.qk_dim + attention.v_dim)


def _ffn_elements(layer: Layer, shape: ModelShape, layout: Layout, experts: ExpertMap, limits: Limits) -> int:
    """Elements of an FFN's intermediate results: one [rows, width] for each of its matrices."""
    ffn, formats = layer.ffn, shape.formats
    if isinstance(ffn, DenseFfn):
        return limits.max_batch_tokens * ffn.matrices * split_width(ffn.width, layout.tp, formats.linear.block)
    rows = arriving_rows(ffn, layout, experts, limits)
    routed = rows * ffn.matrices * split_width(ffn.width, layout.tp, formats.experts.block)
    return routed + limits.max_batch_tokens * ffn.matrices * split_width(
        ffn.shared_width, layout.tp, formats.linear.block
    )


def _row_buffers(shape: ModelShape, layout: Layout, experts: ExpertMap, stage: Stage, limits: Limits) -> int:
    """Elements of the rows that arrive at a rank's experts and of those that leave them, `[rows, hidden]` each."""
    return max(
        (
            2 * arriving_rows(layer.ffn, layout, experts, limits) * (layer.ffn.expert_hidden or shape.hidden)
            for layer, _, _ in _layer_shares(shape, layout, stage)
            if isinstance(layer.ffn, MoeFfn)
        ),
        default=0,
    )


def _communication(shape: ModelShape, layout: Layout, experts: ExpertMap, stage: Stage, limits: Limits) -> int:
    """Dispatch and combine buffers, and staging for all-reduce (one [tokens, hidden]) and stage boundaries (two)."""
    rows = _row_buffers(shape, layout, experts, stage, limits) if layout.ep > 1 else 0
    staging = (layout.tp > 1) + 2 * (layout.pp > 1)
    return (rows + staging * limits.max_batch_tokens * shape.hidden) * ELEMENT_BYTES[shape.formats.compute]
