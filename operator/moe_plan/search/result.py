"""What a search found, as the JSON that `moe search -o json` prints. Times are seconds, rates a second."""

from typing import Literal

from moe_plan.layout import Dimension
from moe_plan.plan import NotNegative, Part, Positive

SEARCH_VERSION: Literal["moe-operator.dev/search/v1"] = "moe-operator.dev/search/v1"


class Found(Part):
    """A layout under a load, with what is predicted of it: what `moe plan` says of a manifest with these fields."""

    ep: Positive
    tp: Positive
    pp: Positive
    replicas: Positive
    gpus: Positive
    """Of all replicas."""
    redundant_experts: NotNegative
    rank_order: tuple[Dimension, ...]
    micro_batches: Positive
    concurrency: Positive
    """Requests at once, over all replicas."""
    batch_per_shard: Positive
    """Requests decoded together on one shard."""
    ttft: float
    tpot: float
    tokens_per_s: float
    """Output tokens over all replicas."""
    tokens_per_s_per_gpu: float
    meets: bool
    """Whether it meets the workload's targets and holds its requests."""


class RunnerUp(Found):
    """A layout that is not the best."""

    loses: str
    """Why."""


class Neighbour(Found):
    """A layout near to one that is not valid."""

    changes: NotNegative
    """Fields of the manifest that it changes."""
    loss: float
    """Share of the best layout's tokens/s that it is predicted to lose."""


class Written(Part):
    """The manifest's own layout. Fields that are auto have no part in it, so that it may be absent."""

    layout: RunnerUp | None
    """None where it is not valid."""
    violations: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    """Valid layouts near to it, least loss first."""


class Counts(Part):
    """How much was looked at."""

    layouts: int
    """Degrees, experts and rank orders that the algebra allows and that fit."""
    loads: int
    """Predictions: each of them under several loads, with several numbers of micro-batches."""


class Target(Part):
    """What the workload asks."""

    input_tokens: Positive
    output_tokens: Positive
    concurrency: Positive
    ttft: float | None
    tpot: float | None


class SearchResult(Part):
    """What a search found."""

    version: Literal["moe-operator.dev/search/v1"] = SEARCH_VERSION
    name: str
    model: str
    hardware: str
    engine: str
    workload: Target
    max_gpus: Positive
    kept: tuple[str, ...]
    """Fields of the manifest that were not varied."""
    counts: Counts
    best: Found
    """The best for the workload's requests: within the targets the most tokens/s, then the fewest GPUs."""
    runners_up: tuple[RunnerUp, ...]
    fewest: Found | None
    """The best of the fewest GPUs that meet the targets."""
    densest: Found | None
    """The most tokens/s a GPU within the targets, at whatever concurrency that is."""
    front: tuple[Found, ...]
    """What no other layout and load beats in tokens/s a GPU, TPOT and TTFT at once, by falling tokens/s a GPU."""
    written: Written | None
