"""The plan: the one object that crosses from the operator to the runtime, as versioned JSON.

Rules and exceptions are stored instead of a row a rank or an expert, so that 128 ranks and 94 layers stay far
below a ConfigMap's 1 MiB. Same spec in, same bytes out. Sizes are bytes, times seconds, rates a second.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

PLAN_VERSION: Literal["moe-operator.dev/plan/v1"] = "moe-operator.dev/plan/v1"

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A part of the plan: snake_case in JSON, closed, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedModel(Part):
    """The resolved model. `config` is the Hugging Face config.json that the runtime builds the model from."""

    name: str
    family: str
    config: dict[str, Any]
    source: str
    revision: str
    dtype: str
    """Storage format of the routed experts, the bulk of the weights."""
    compute_dtype: str
    kv_cache_dtype: str
    total_params: int
    active_params: int
    """Parameters that one token uses."""


class PlannedHardware(Part):
    """The GPU a rank runs on."""

    name: str
    device: Literal["cuda", "rocm", "cpu"]
    resource_name: str
    gpus_per_node: Positive
    memory_bytes: float
    usable_bytes: float
    """Memory less the reserve."""


class Degrees(Part):
    """Layout of one replica; world is ep·tp·pp."""

    ep: Positive
    tp: Positive
    pp: Positive

    @property
    def world(self) -> int:
        """Ranks of one replica."""
        return self.ep * self.tp * self.pp


class Stage(Part):
    """The layers of one pp coordinate: first_layer up to but not including first_layer + layers."""

    pp: NotNegative
    first_layer: NotNegative
    layers: Positive
    embedding: bool
    """Whether the stage holds the embedding."""
    head: bool
    """Whether the stage holds the final norm and the head."""


class ExpertMap(Part):
    """Which logical expert each physical expert of a MoE layer is.

    Physical expert p lies on ep coordinate p // per_rank. Without an entry in `exceptions` (keyed by layer) it is
    a copy of logical expert p % logical; with one, of exceptions[layer][p].
    """

    logical: Positive
    redundant: NotNegative
    per_rank: Positive
    """Physical experts of a layer on one ep coordinate."""
    exceptions: dict[int, tuple[int, ...]] = {}


class StageMemory(Part):
    """Bytes on the fullest rank of a stage, by part. Redundant experts are apart from `experts`."""

    pp: NotNegative
    attention: int
    experts: int
    redundant_experts: int
    shared_experts: int
    dense_ffn: int
    embedding: int
    head: int
    other_weights: int
    """Norms and routers."""
    activations: int
    communication: int
    gradients: int
    """0 unless the mode is training."""
    optimizer: int
    """0 unless the mode is training."""
    kv_cache: int
    """What remains for the KV cache, or what one request of the longest length needs where that is all there is."""
    total: int


class KvCache(Part):
    """The KV cache of one shard (all the ranks of one ep coordinate hold the same requests)."""

    bytes_per_token: int
    """On the fullest rank, over all layers of its stage."""
    bytes_per_request: int
    """Part that does not grow with tokens: sliding windows and recurrent states at their largest."""
    tokens_per_shard: int
    requests_per_shard: int
    """Requests of the workload's length that fit at once."""


class TimeParts(Part):
    """Where a step's time goes, in seconds. They add up to `total`."""

    compute: float
    """Arithmetic-bound time."""
    memory: float
    """Time bound by reading weights and KV cache, beyond what compute hides."""
    tp_all_reduce: float
    dispatch: float
    combine: float
    pp_send: float
    pp_bubble: float
    overhead: float
    """Launches, scheduling, sampling, admission: time in which the GPU does nothing of the above."""
    queueing: float
    """Waiting for the prompts of other requests and for room in the KV cache; 0 in TPOT, whose steps hold them."""
    total: float


class Prediction(Part):
    """What the cost model expects of the workload: means over the requests of a closed loop of `concurrency` clients."""

    ttft: float
    ttft_interval: tuple[float, float]
    """Between these, in seconds, lay 80 % of the measurements that the fit had not seen."""
    ttft_parts: TimeParts
    tpot: float
    tpot_interval: tuple[float, float]
    """The same for TPOT."""
    tpot_parts: TimeParts
    tokens_per_s: float
    """Output tokens over the whole deployment."""
    tokens_per_s_per_gpu: float
    batch_per_shard: int
    """Requests decoded together on one shard."""


class PlannedLoads(Part):
    """The measured loads by which experts are dealt, and how evenly they then fall on the ranks."""

    since: str
    """When they began to be counted, ISO 8601."""
    tokens: int
    """Tokens that were routed."""
    imbalance_without: float
    """Tokens of the fullest ep coordinate over the mean, as a mean over the MoE layers, if dealt without the loads."""
    imbalance: float
    """The same as dealt."""


class Limits(Part):
    """What the runtime admits."""

    max_model_length: Positive
    max_batch_tokens: Positive
    capacity_factor: float | None


class Plan(Part):
    """Everything derived from a spec before a pod exists."""

    version: Literal["moe-operator.dev/plan/v1"] = PLAN_VERSION
    name: str
    hash: str
    """SHA-256 of all that decides pods, hexadecimal."""
    model: PlannedModel
    hardware: PlannedHardware
    degrees: Degrees
    rank_order: tuple[Literal["pp", "ep", "tp"], ...]
    replicas: NotNegative
    micro_batches: Positive
    slots: Positive
    """Pods of a replica."""
    ranks_per_slot: Positive
    stages: tuple[Stage, ...]
    experts: ExpertMap
    limits: Limits
    memory: tuple[StageMemory, ...]
    kv_cache: KvCache
    prediction: Prediction
    engine: str
    port: int
    expert_loads: PlannedLoads | None = None
    warnings: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out loads that there are none of: a plan without them is the same to runtimes that know none."""
        whole: dict[str, Any] = serialise(self)
        if whole.get("expert_loads", ...) is None:
            del whole["expert_loads"]
        return whole
