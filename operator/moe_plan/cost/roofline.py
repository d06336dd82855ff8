"""How long one kernel takes on one rank: the longer of its arithmetic and its memory traffic.

Roofline: Williams, Waterman, Patterson, Communications of the ACM 52(4), 2009. Each kernel states its operations and
bytes; efficiencies come from `constants.toml`.
"""

from dataclasses import dataclass, replace

from moe_plan.cost.constants import constants
from moe_plan.hardware import Hardware
from moe_plan.kv import ELEMENT_BYTES, attended_entries, entry_bytes, growing_bytes, mean_attended_entries
from moe_plan.model import Attention, DenseFfn, Layer, ModelShape, MoeFfn, NumberFormat
from moe_plan.plan import ExpertMap
from moe_plan.shares import busiest_load, layer_share, split_width


@dataclass(frozen=True, slots=True)
class Load:
    """What a step or a micro-batch asks of a rank. Counts may be fractions: means over micro-batches."""

    prompts: float
    """Prompts computed whole on the fullest shard."""
    prompt_tokens: float
    """Tokens of one prompt."""
    decodes: float
    """Requests that get one token on the fullest shard."""
    context: float
    """Tokens that a decoding request has cached, as a mean."""
    stage_tokens: float
    """Tokens of all shards together, which is what the experts of a stage see."""

    @property
    def tokens(self) -> float:
        """Tokens of the fullest shard."""
        return self.prompts * self.prompt_tokens + self.decodes

    @property
    def requests(self) -> float:
        """Requests of the fullest shard: rows of the logits."""
        return self.prompts + self.decodes

    def part(self, share: float) -> "Load":
        """The load of a micro-batch that has such a share of it."""
        return replace(
            self,
            prompts=self.prompts * share,
            decodes=self.decodes * share,
            stage_tokens=self.stage_tokens * share,
        )


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Time of one or more kernels: arithmetic, and the traffic that arithmetic does not hide."""

    compute_s: float
    memory_s: float

    def __add__(self, other: "KernelTime") -> "KernelTime":
        return KernelTime(self.compute_s + other.compute_s, self.memory_s + other.memory_s)


def kernel_s(flops: float, traffic_bytes: float, flops_per_s: float, hardware: Hardware) -> KernelTime:
    """max(flops / rate, bytes / bandwidth), told apart. `flops_per_s` has its efficiency applied."""
    compute_s = flops / flops_per_s
    memory_s = traffic_bytes / (hardware.memory_bandwidth_bytes_per_s * constants().memory_efficiency)
    return KernelTime(compute_s, max(0.0, memory_s - compute_s))


def gemm_s(
    rows: float, params: float, number_format: NumberFormat, activation_bytes: float, hardware: Hardware
) -> KernelTime:
    """A product of `rows` by weights of `params` elements: 2 operations a row and parameter, each weight read once."""
    return kernel_s(
        flops=2 * rows * params,
        traffic_bytes=params * number_format.bytes_per_param + activation_bytes,
        flops_per_s=hardware.flops_per_s(number_format.name) * constants().gemm_efficiency,
        hardware=hardware,
    )


def distinct_experts(per_rank: int, experts_hit: float, tokens: float) -> float:
    """Experts of a rank that at least one of `tokens` reaches: n(1 - (1 - p)^tokens).

    `experts_hit` is how many of the rank's experts one token reaches on average, so p = experts_hit / n; tokens are
    routed independently and evenly. With one expert a choice and no copies this is E(1 - (1 - k/E)^tokens) over ep.
    """
    chance = min(1.0, experts_hit / per_rank)
    return float(per_rank * (1 - (1 - chance) ** tokens))


def routed_experts_s(
    layer: Layer, shape: ModelShape, experts: ExpertMap, tp: int, load: Load, hardware: Hardware
) -> KernelTime:
    """The grouped product of the busiest rank's experts: rows by arrivals, weights of the distinct experts reached."""
    ffn = layer.ffn
    assert isinstance(ffn, MoeFfn), "only MoE layers have routed experts"
    params = layer_share(layer, shape.formats, tp).expert
    hit = ffn.top_k * busiest_load(experts)
    rows = load.stage_tokens * hit
    reached = distinct_experts(experts.per_rank, hit, load.stage_tokens)
    hidden = ffn.expert_hidden or shape.hidden
    columns = 2 * hidden + 2 * ffn.matrices * split_width(ffn.width, tp, shape.formats.experts.block)
    return kernel_s(
        flops=2 * rows * params,
        traffic_bytes=reached * params * shape.formats.experts.bytes_per_param + rows * columns * _element(shape),
        flops_per_s=hardware.flops_per_s(shape.formats.experts.name) * constants().gemm_efficiency,
        hardware=hardware,
    )


def attention_core_s(
    attention: Attention, tp: int, load: Load, cache_bytes: int, shape: ModelShape, hardware: Hardware
) -> KernelTime:
    """Scores and weighted values, for the prompts and the decodes of a micro-batch.

    Flash attention: the cache is read once a decode, and a prompt's keys and values once (Dao, arXiv 2307.08691).
    """
    prompt = _prompt_attention(attention, tp, load.prompt_tokens, cache_bytes)
    decode = _decode_attention(attention, tp, load.context, cache_bytes)
    rate = hardware.flops_per_s(shape.formats.compute) * constants().attention_efficiency
    prompts = kernel_s(load.prompts * prompt[0], load.prompts * prompt[1], rate, hardware)
    return prompts + kernel_s(load.decodes * decode[0], load.decodes * decode[1], rate, hardware)


def _prompt_attention(attention: Attention, tp: int, tokens: float, cache_bytes: int) -> tuple[float, float]:
    """Operations and bytes of one prompt: 2 a query head, entry and element of key and of value."""
    heads = attention.heads / tp
    scores = 2 * tokens * mean_attended_entries(attention, tokens) * heads * (attention.qk_dim + attention.v_dim)
    traffic = 2 * tokens * growing_bytes(attention, tp, cache_bytes)
    state = attention.state_elements / tp
    return scores + 4 * tokens * state, traffic + 2 * state * ELEMENT_BYTES["float32"]


def _decode_attention(attention: Attention, tp: int, context: float, cache_bytes: int) -> tuple[float, float]:
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


def layer_s(
    layer: Layer, shape: ModelShape, experts: ExpertMap, tp: int, load: Load, cache_bytes: int, hardware: Hardware
) -> KernelTime:
    """All kernels of one layer on its fullest rank."""
    share, formats = layer_share(layer, shape.formats, tp), shape.formats
    row_bytes = load.tokens * shape.hidden * _element(shape)
    time = (
        gemm_s(load.tokens, share.attention, formats.linear, 2 * row_bytes, hardware)
        + attention_core_s(layer.attention, tp, load, cache_bytes, shape, hardware)
        + gemm_s(load.tokens, share.other, formats.other, constants().elementwise_passes * row_bytes, hardware)
    )
    if isinstance(layer.ffn, DenseFfn):
        return time + gemm_s(load.tokens, share.dense_ffn, formats.linear, 2 * row_bytes, hardware)
    if share.shared_experts:
        time += gemm_s(load.tokens, share.shared_experts, formats.linear, 2 * row_bytes, hardware)
    return time + routed_experts_s(layer, shape, experts, tp, load, hardware)


def head_s(params: int, shape: ModelShape, load: Load, hardware: Hardware) -> KernelTime:
    """Logits of the requests' last tokens, from a rank's `params` of the head."""
    rows_bytes = load.requests * shape.hidden * _element(shape)
    return gemm_s(load.requests, params, shape.formats.other, rows_bytes, hardware)


def _element(shape: ModelShape) -> int:
    return ELEMENT_BYTES[shape.formats.compute]
