"""The numbers of the cost model, read once: `constants.toml` holds those with a source, `fitted.toml` those of the fit."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moe_plan.hardware import Scope
from moe_plan.model import Layer, MoeFfn

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Kernels:
    """What kernels reach of a GPU's peaks."""

    memory_efficiency: float
    """Share of the memory bandwidth."""
    dense_efficiency: float
    """Share of the peak arithmetic of projections, in any format that the GPU computes in."""
    wide_efficiency: float
    """The same of grouped expert products in 16 or 32 bits."""
    float8_efficiency: float
    float4_efficiency: float
    widened_efficiency: float
    """The same where weights of a format that the GPU lacks are widened first."""
    widened_memory: float
    """Time of reading weights that are widened first, as a multiple of reading as many bytes otherwise."""
    attention_efficiency: float
    narrow_width: float
    """Columns on a rank at which a product reaches half of its efficiency: width / (width + narrow_width)."""
    elementwise_passes: int


@dataclass(frozen=True, slots=True)
class Routing:
    """How unevenly tokens come to experts."""

    spread: float
    """Standard deviation of an expert's load over its mean."""
    relief: float
    """How much redundant experts lower it."""
    unevenness: float
    """Squared coefficient of variation of an expert's share of the tokens, where it decides which are touched at all."""


@dataclass(frozen=True, slots=True)
class Collectives:
    """Starts in latencies of the tier, bandwidths as shares of what large messages reach on it."""

    link_efficiency: dict[Scope, float]
    custom_start: float
    custom_rank: float
    custom_second: float
    custom_bandwidth: float
    direct_messages: float
    direct_bandwidth: float
    staged_messages: float
    staged_bandwidth: float


@dataclass(frozen=True, slots=True)
class KernelCounts:
    """Dependent kernels of a layer's parts."""

    gqa_kernels: int
    mla_kernels: int
    linear_kernels: int
    moe_kernels: int
    shared_kernels: int
    dense_kernels: int

    def relative(self, layer: Layer) -> float:
        """A layer's kernels, as a multiple of those of grouped-query attention with a MoE FFN."""
        attention = {"gqa": self.gqa_kernels, "mla": self.mla_kernels, "linear": self.linear_kernels}
        ffn = self.dense_kernels
        if isinstance(layer.ffn, MoeFfn):
            ffn = self.moe_kernels + (self.shared_kernels if layer.ffn.shared_width else 0)
        return (attention[layer.attention.kind] + ffn) / (self.gqa_kernels + self.moe_kernels)


@dataclass(frozen=True, slots=True)
class PoolConstants:
    """Prefill and decode on pools of their own."""

    transfer_bandwidth: float
    """Share of the cluster's link that the transfer of a KV cache reaches."""
    prefill_utilisation: float
    """Share of the time that a prefill pool computes, at most."""


@dataclass(frozen=True, slots=True)
class Constants:
    """See the data files for meaning and source of each."""

    kernels: Kernels
    routing: Routing
    collectives: Collectives
    kernel_counts: KernelCounts
    pools: PoolConstants
    requests_per_client: int
    arrival_skew: float
    hidden_copies: int
    gradient_bytes: int
    optimizer_bytes: int


@dataclass(frozen=True, slots=True)
class Engine:
    """One serving engine: see `engines.toml` for the features, `fitted.toml` for the times."""

    name: str
    all_reduce: Literal["custom", "library"]
    dispatch_format: str
    overlap_tokens: int
    step_tokens: int
    layer_s: float
    """Fixed time of a MoE layer in a step of decodes: launches, dependent small kernels, synchronisation."""
    prompt_layer_s: float
    """The same where the step computes prompts too."""
    step_s: float
    """Fixed time of a step: scheduling, sampling."""
    request_s: float
    """Time of a step for each request of a shard: the host's bookkeeping, sampling, streaming."""
    first_token_layer_s: float
    """Time a layer that a first token takes beside its steps: admission, tokenization, first launches."""


def make_constants(table: Mapping[str, Any], fitted: Mapping[str, Any]) -> Constants:
    """Constants of the contents of the two data files."""
    return Constants(
        kernels=Kernels(
            **fitted["kernels"],
            attention_efficiency=table["efficiency"]["attention_flops"],
            elementwise_passes=table["elementwise"]["passes"],
        ),
        routing=Routing(**fitted["routing"], **table["routing"]),
        collectives=Collectives(
            link_efficiency=table["link_efficiency"], **fitted["all_reduce"], **fitted["all_to_all"]
        ),
        kernel_counts=KernelCounts(**table["overhead"]),
        pools=PoolConstants(**table["pools"]),
        **table["benchmark"],
        **table["buffers"],
        **table["training"],
    )


def make_engines(profiles: Mapping[str, Any], fitted: Mapping[str, Any]) -> dict[str, Engine]:
    """Engine profiles of the contents of `engines.toml` and `fitted.toml`, by name."""
    return {
        name: Engine(
            name=name,
            **{key: value for key, value in features.items() if key != "source"},
            **fitted["engines"].get(name, {}),
        )
        for name, features in profiles.items()
    }


def read_data(name: str) -> dict[str, Any]:
    """The contents of a data file beside this module."""
    return tomllib.loads((_HERE / name).read_text(encoding="utf-8"))


# Read when imported and not when first needed, so that the first estimate of a process takes no longer than the next.
_FITTED = read_data("fitted.toml")
_CONSTANTS = make_constants(read_data("constants.toml"), _FITTED)
_ENGINES = make_engines(read_data("engines.toml"), _FITTED)


def constants() -> Constants:
    """The constants in force."""
    return _CONSTANTS


def engine(name: str) -> Engine:
    """The profile of an engine, by its name in spec.runtime.engine. Raises KeyError for one that there is none of."""
    return _ENGINES[name]


def interval(figure: str) -> tuple[float, float]:
    """Factors on a prediction of 'ttft' or 'tpot' between which 80 % of held-out measurements fell."""
    low, high = _FITTED["interval"][figure]
    return low, high
