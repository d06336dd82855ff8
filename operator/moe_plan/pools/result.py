"""What a search of pools found, as the JSON that `moe search --pools -o json` prints. Times are seconds, rates a second."""

from typing import Literal

from moe_plan.layout import Dimension
from moe_plan.plan import NotNegative, Part, Positive
from moe_plan.search.result import Found, Target

POOLS_VERSION: Literal["moe-operator.dev/pools/v1"] = "moe-operator.dev/pools/v1"


class Pool(Part):
    """Workers of one layout that compute only prompts, or only decodes."""

    ep: Positive
    tp: Positive
    pp: Positive
    workers: Positive
    gpus: Positive
    """Of all workers."""
    redundant_experts: NotNegative
    rank_order: tuple[Dimension, ...]
    micro_batches: Positive
    batch: Positive
    """Prompts of a shard's step, or requests that a shard decodes together."""
    step_s: float
    moved_s: float
    """Time of sending the KV caches of a step, or of receiving that of a request, on the rank that moves most."""
    utilisation: float
    """Share of the time that a prefill pool computes; of a decode pool the share of its batch that is taken."""
    gpu_s: float
    """GPU-seconds that the pool holds for each request."""


class FirstTokenParts(Part):
    """Where TTFT goes."""

    prefill: float
    admission: float
    queueing: float
    transfer: float


class PoolPair(Part):
    """A prefill pool and a decode pool, and what is predicted of them together."""

    prefill: Pool
    decode: Pool
    gpus: Positive
    concurrency: float
    """Requests at once, as a mean."""
    requests_per_s: float
    ttft: float
    ttft_parts: FirstTokenParts
    tpot: float
    tokens_per_s: float
    """Output tokens."""
    tokens_per_s_per_gpu: float
    meets: bool
    """Whether it meets the targets."""


class Comparison(Part):
    """The best pair of pools beside the best single pool, under one load."""

    pools: PoolPair | None
    """None where no pair serves a request within the targets."""
    single: Found | None
    """One pool that prefills and decodes; None where none meets the targets."""
    gain: float | None
    """Tokens/s of the pools (a GPU, at any load) over those of the single pool, less one; None where either is missing."""
    why: str
    """Which is better and why, or why there is none."""


class PoolsResult(Part):
    """What a search of pools found. Nothing here is executed by the operator or the bundled runtime."""

    version: Literal["moe-operator.dev/pools/v1"] = POOLS_VERSION
    name: str
    model: str
    hardware: str
    engine: str
    workload: Target
    max_gpus: Positive
    kept: tuple[str, ...]
    pairs: NotNegative
    """Pairs of a prefill pool and a decode pool that were compared or proved not to be better."""
    at_workload: Comparison
    """With up to the workload's requests at once: the most tokens/s, then the fewest GPUs."""
    at_any_load: Comparison
    """With as many requests as it takes: the most tokens/s a GPU."""
    given: PoolPair | None
    """The pair that was asked about, with up to the workload's requests."""
