"""How long the kernels of a layer take on one rank: their arithmetic, and their memory traffic beside it.

Each kernel states its operations and bytes (roofline: Williams, Waterman, Patterson, Communications of the ACM 52(4),
2009). The two are added, not the longer one taken: waves of a grouped product read their weights before they compute,
and a sum describes the measured kernels better (docs/cost-model.md). Counts may be columns of candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

from moe_plan.columns import Column, is_single, ln, maximum, minimum, stacked, where
from moe_plan.cost.constants import Constants, Engine, Routing
from moe_plan.hardware import Hardware
from moe_plan.kv import ELEMENT_BYTES, attended_entries, entry_bytes, growing_bytes, mean_attended_entries
from moe_plan.model import Attention, DenseFfn, Layer, ModelShape, MoeFfn, NumberFormat
from moe_plan.shares import layer_share, split_width

_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "float8": 8, "mxfp4": 4, "int4": 4}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all candidates have in common."""

    shape: ModelShape
    hardware: Hardware
    engine: Engine
    constants: Constants
    cache_bytes: int
    """Bytes of one cached element."""
    step_tokens: int
    """Most new tokens of a shard's step."""

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of the hidden state."""
        return ELEMENT_BYTES[self.shape.formats.compute]


@dataclass(frozen=True, slots=True)
class Experts:
    """How the experts of a MoE layer are dealt."""

    logical: int
    redundant: Column
    per_rank: Column
    """Physical experts of a rank."""
    ep: Column
    tp: Column
    """Ranks over which an expert is split."""
    busiest: Column
    """Share of the routed tokens that the busiest rank computes when all experts are equally wanted."""
    imbalance: Column | None = None
    """By how much skewed routing raises that; None to work it out."""


@dataclass(frozen=True)
class Load:
    """What a step or a micro-batch asks of a rank. Counts may be fractions: means over micro-batches."""

    prompt_tokens: Column
    """New tokens of prompts on the fullest shard."""
    prompt_length: Column
    """Tokens of the whole prompt that they are of."""
    decodes: Column
    """Requests that get one token on the fullest shard."""
    context: Column
    """Tokens that a decoding request has cached, as a mean."""
    stage_tokens: Column
    """Tokens of all shards together, which is what the experts of a stage see."""

    @cached_property
    def tokens(self) -> Column:
        """Tokens of the fullest shard."""
        return self.prompt_tokens + self.decodes

    @cached_property
    def requests(self) -> Column:
        """Rows of the logits on the fullest shard."""
        return self.prompt_tokens / self.prompt_length + self.decodes

    def has_columns(self) -> bool:
        """Whether it is of several candidates."""
        return not is_single(self.prompt_tokens, self.prompt_length, self.decodes, self.context, self.stage_tokens)

    @staticmethod
    def stacked(loads: "Sequence[Load]") -> "Load":
        """Several loads as one, `[loads, candidates]`."""
        return Load(*(stacked([getattr(load, field.name) for load in loads]) for field in fields(Load)))

    def part(self, share: Column) -> "Load":
        """The load of a micro-batch that has such a share of it."""
        return replace(
            self,
            prompt_tokens=self.prompt_tokens * share,
            decodes=self.decodes * share,
            stage_tokens=self.stage_tokens * share,
        )


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Time of one or more kernels."""

    compute_s: Column
    memory_s: Column

    def __add__(self, other: "KernelTime") -> "KernelTime":
        return KernelTime(self.compute_s + other.compute_s, self.memory_s + other.memory_s)


def kernel_s(flops: Column, traffic_bytes: Column, flops_per_s: Column, setting: Setting) -> KernelTime:
    """Operations and bytes at their rates. `flops_per_s` has its efficiency applied."""
    bandwidth = setting.hardware.memory_bandwidth_bytes_per_s * setting.constants.kernels.memory_efficiency
    return KernelTime(flops / flops_per_s, traffic_bytes / bandwidth)


def gemm_s(
    rows: Column, params: Column, width: Column, weights: NumberFormat, activation_bytes: Column, setting: Setting
) -> KernelTime:
    """A product of `rows` by weights of `params` elements, `width` columns (or rows) on this rank.

    2 operations a row and parameter, each weight read once.
    """
    kernels = setting.constants.kernels
    rate = setting.hardware.flops_per_s(weights.name) * kernels.dense_efficiency
    return kernel_s(
        flops=2 * rows * params,
        traffic_bytes=params * weights.bytes_per_param + activation_bytes,
        flops_per_s=rate * width / (width + kernels.narrow_width),
        setting=setting,
    )


def distinct_experts(per_rank: Column, experts_hit: Column, tokens: Column, unevenness: float) -> Column:
    """Experts of a rank that at least one of `tokens` reaches: n(1 - (1 - p)(1 + u p (T - 1))^(-1/u)).

    `experts_hit` is how many of the rank's experts one token reaches on average, so p = experts_hit / n, and np for one
    token. Evenly wanted experts would be n(1 - (1 - p)^T), which is the limit of a small u; where some are wanted more,
    as a gamma distribution of squared coefficient of variation u has it, more of the others stay untouched (the zeros of
    a negative binomial distribution).
    """
    chance = minimum(1.0, experts_hit / per_rank)
    untouched = (1 - chance) * (1 + unevenness * chance * maximum(0.0, tokens - 1)) ** (-1 / unevenness)
    return per_rank * where(tokens > 1, 1 - untouched, chance * tokens)


def skew(experts: Experts, top_k: int, routing: Routing) -> Column:
    """How many times its even share the busiest rank computes, when some experts are wanted more than others.

    A rank's load is the sum of its experts', whose loads have the standard deviation `spread`; the largest of ep
    normal deviates is about sqrt(2 ln ep) (Cramér, "Mathematical Methods of Statistics", 1946, section 28.6). No rank
    computes more than min(k, its experts) rows a token. Copies of the most wanted experts lower the spread.
    """
    if experts.imbalance is not None:
        return experts.imbalance
    spread = routing.spread / (1 + routing.relief * experts.redundant / experts.logical)
    deviates = (2 * ln(experts.ep) / experts.per_rank) ** 0.5
    most = minimum(top_k, experts.per_rank) / (top_k * experts.busiest)
    return maximum(1.0, minimum(1 + spread * deviates, most))


def routed_experts_s(layer: Layer, experts: Experts, load: Load, setting: Setting) -> KernelTime:
    """The grouped product of the busiest rank's experts: rows by arrivals, weights of the distinct experts reached."""
    ffn, formats = layer.ffn, setting.shape.formats
    assert isinstance(ffn, MoeFfn), "only MoE layers have routed experts"
    params = layer_share(layer, formats, 1, experts.tp).expert
    hit = ffn.top_k * experts.busiest
    rows = load.stage_tokens * hit * skew(experts, ffn.top_k, setting.constants.routing)
    reached = distinct_experts(experts.per_rank, hit, load.stage_tokens, setting.constants.routing.unevenness)
    width = split_width(ffn.width, experts.tp, formats.experts.block)
    columns = 2 * (ffn.expert_hidden or setting.shape.hidden) + 2 * ffn.matrices * width
    narrow = width / (width + setting.constants.kernels.narrow_width)
    return kernel_s(
        flops=2 * rows * params,
        traffic_bytes=reached * params * expert_read_bytes(formats.experts, setting)
        + rows * columns * setting.element_bytes,
        flops_per_s=expert_flops_per_s(formats.experts.name, setting) * narrow,
        setting=setting,
    )


def is_widened(name: str, setting: Setting) -> bool:
    """Whether weights of a number format become wider ones before they are multiplied, since the GPU lacks it."""
    return _BITS[name] < _BITS["bfloat16"] and name not in dict(setting.hardware.flops)


def expert_read_bytes(weights: NumberFormat, setting: Setting) -> float:
    """Bytes of an expert's parameter, as a plain read of so many bytes would take as long."""
    widened = setting.constants.kernels.widened_memory if is_widened(weights.name, setting) else 1.0
    return weights.bytes_per_param * widened


def expert_flops_per_s(name: str, setting: Setting) -> float:
    """Rate of wide grouped products of a number format: its own where the GPU has it, else that of widened weights."""
    kernels = setting.constants.kernels
    efficiency = kernels.widened_efficiency
    if not is_widened(name, setting):
        efficiency = {8: kernels.float8_efficiency, 4: kernels.float4_efficiency}.get(
            _BITS[name], kernels.wide_efficiency
        )
    return setting.hardware.flops_per_s(name) * efficiency


def attention_core_s(attention: Attention, tp: Column, load: Load, setting: Setting) -> KernelTime:
    """Scores and weighted values, for the prompts and the decodes of a micro-batch.

    Flash attention: the cache is read once a decode, and a prompt's keys and values once (Dao, arXiv 2307.08691).
    """
    prompt = _prompt_attention(attention, tp, load.prompt_length, setting.cache_bytes)
    decode = _decode_attention(attention, tp, load.context, setting.cache_bytes)
    prompts = load.prompt_tokens / load.prompt_length
    return kernel_s(
        flops=prompts * prompt[0] + load.decodes * decode[0],
        traffic_bytes=prompts * prompt[1] + load.decodes * decode[1],
        flops_per_s=setting.hardware.flops_per_s(setting.shape.formats.compute)
        * setting.constants.kernels.attention_efficiency,
        setting=setting,
    )


def _prompt_attention(attention: Attention, tp: Column, tokens: Column, cache_bytes: int) -> tuple[Column, Column]:
    """Operations and bytes of one prompt: 2 a query head, entry and element of key and of value."""
    heads = attention.heads / tp
    scores = 2 * tokens * mean_attended_entries(attention, tokens) * heads * (attention.qk_dim + attention.v_dim)
    traffic = 2 * tokens * growing_bytes(attention, tp, cache_bytes)
    state = attention.state_elements / tp
    return scores + 4 * tokens * state, traffic + 2 * state * ELEMENT_BYTES["float32"]


def _decode_attention(attention: Attention, tp: Column, context: Column, cache_bytes: int) -> tuple[Column, Column]:
    """Operations and bytes of one token that attends to `context` cached ones.

    MLA decodes in the latent space, so each head works on latent_dim elements for scores and again for values
    (DeepSeek-V2, arXiv 2405.04434, appendix C, absorbed projections). Linear attention updates and reads its state.
    """
    entries = attended_entries(attention, context)
    width = 2 * attention.latent_dim if attention.kind == "mla" else attention.qk_dim + attention.v_dim
    state = attention.state_elements / tp
    flops = 2 * entries * attention.heads / tp * width + 4 * state
    indexer = context * attention.indexer_dim * cache_bytes
    return flops, entries * entry_bytes(attention, tp, cache_bytes) + indexer + 2 * state * ELEMENT_BYTES["float32"]


def layer_s(layer: Layer, tp: Column, experts: Experts, load: Load, setting: Setting) -> KernelTime:
    """All kernels of one layer on its fullest rank."""
    formats, passes = setting.shape.formats, setting.constants.kernels.elementwise_passes
    share, attention = layer_share(layer, formats, tp), layer.attention
    row_bytes = load.tokens * setting.shape.hidden * setting.element_bytes
    heads = attention.heads * attention.v_dim / tp
    time = (
        gemm_s(load.tokens, share.attention, heads, formats.linear, 2 * row_bytes, setting)
        + attention_core_s(attention, tp, load, setting)
        + gemm_s(load.tokens, share.other, setting.shape.hidden, formats.other, passes * row_bytes, setting)
    )
    if isinstance(layer.ffn, DenseFfn):
        width = split_width(layer.ffn.width, tp, formats.linear.block)
        return time + gemm_s(load.tokens, share.dense_ffn, width, formats.linear, 2 * row_bytes, setting)
    if layer.ffn.shared_width:
        width = split_width(layer.ffn.shared_width, tp, formats.linear.block)
        time += gemm_s(load.tokens, share.shared_experts, width, formats.linear, 2 * row_bytes, setting)
    return time + routed_experts_s(layer, experts, load, setting)


def head_s(params: Column, load: Load, setting: Setting) -> KernelTime:
    """Logits of the requests' last tokens, from a rank's `params` of the head."""
    rows_bytes = load.requests * setting.shape.hidden * setting.element_bytes
    return gemm_s(load.requests, params, setting.shape.hidden, setting.shape.formats.other, rows_bytes, setting)
