"""The MoEDeployment as a person writes it: one pydantic model a section of the manifest.

Field names are camelCase in the manifest and snake_case here. Unknown fields are errors, integers are never
read from strings. What a field means, and its unit, is its docstring: the CRD and `kubectl explain` show it.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic.alias_generators import to_camel

from moe_plan.units import Duration, Fraction, Quantity

API_VERSION = "moe-operator.dev/v1alpha1"
KIND = "MoEDeployment"

MAX_GPUS = 1024
"""The largest replica that `auto` considers."""

MAX_DEGREE = 2**31 - 1
"""Bound of each integer in the manifest: what an int32 of the Kubernetes API holds."""

SOURCE_PATTERN = r"^(hf|s3|pvc|file)://.+$|^random$"
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"

Count = Annotated[StrictInt, Field(ge=1, le=MAX_DEGREE)]
CountOrZero = Annotated[StrictInt, Field(ge=0, le=MAX_DEGREE)]
Degree = Count | Literal["auto"]
Text = Annotated[StrictStr, Field(min_length=1, max_length=1024)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=253)]
Dimension = Literal["pp", "ep", "tp"]


class Section(BaseModel):
    """A section of the manifest: camelCase, closed, immutable."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, defer_build=True)


class WeightDtype(StrEnum):
    """How weights are stored; float8, mxfp4 and int4 apply to the linear layers alone."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT8 = "float8"
    MXFP4 = "mxfp4"
    INT4 = "int4"


class ConfigMapKey(Section):
    """One key of a ConfigMap in the deployment's namespace."""

    name: Name
    """Name of the ConfigMap."""
    key: Name
    """Key whose value is read."""


class ConfigSource(Section):
    """Where a config.json is read from."""

    config_map_key_ref: ConfigMapKey
    """The ConfigMap and key that hold the config.json."""


class SecretName(Section):
    """A Secret in the deployment's namespace."""

    name: Name
    """Name of the Secret."""


class Model(Section):
    """Which model, whence its weights, and in which number formats. Exactly one of architecture, config, configFrom."""

    architecture: Name | None = None
    """Catalogue name of the model, lower case with hyphens, such as qwen3-235b-a22b."""
    config: Annotated[
        dict[str, Any] | None, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
    ] = None
    """A Hugging Face config.json, inline."""
    config_from: ConfigSource | None = None
    """A Hugging Face config.json in a ConfigMap."""
    source: Annotated[StrictStr | None, Field(max_length=1024, pattern=SOURCE_PATTERN)] = None
    """Where the weights are: hf://ORG/NAME, s3://BUCKET/PATH, pvc://CLAIM/PATH, file:///PATH, or random for
    synthetic weights. Default: the catalogue's repository, or random for a model given by its config."""
    revision: Text = "main"
    """Revision of a hf:// source."""
    source_secret_ref: SecretName | None = None
    """Secret whose keys are environment variables of what fetches a hf:// or s3:// source: HF_TOKEN, HF_ENDPOINT,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the like."""
    dtype: WeightDtype = WeightDtype.AUTO
    """Number format of the weights; auto is as published, quantization_config honoured."""
    kv_cache_dtype: Literal["auto", "bfloat16", "float8"] = "auto"
    """Number format of the KV cache; auto is the compute format."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        given = [name for name in ("architecture", "config", "config_from") if getattr(self, name) is not None]
        if len(given) != 1:
            names = "architecture, config, configFrom"
            raise ValueError(f"needs exactly one of {names}; {len(given)} of them given")
        return self


class Link(Section):
    """One tier of the network, as a GPU sees it."""

    scope: Literal["node", "domain", "cluster"]
    """What the link joins: the GPUs of a node, of a multi-node NVLink domain, or of the cluster."""
    bandwidth: Quantity
    """Bytes a second for each GPU, one way."""
    latency: Duration
    """Time of the smallest message."""
    gpus: Count | None = None
    """GPUs that a domain joins; needed for scope domain, and only there."""

    @model_validator(mode="after")
    def _domain_size(self) -> Self:
        if (self.gpus is not None) != (self.scope == "domain"):
            raise ValueError("gpus is given for scope domain, and only there")
        return self


class Accelerator(Section):
    """A GPU that the catalogue does not hold."""

    memory: Quantity
    """Bytes of memory of one GPU."""
    flops: Annotated[
        dict[Literal["float32", "bfloat16", "float16", "float8", "mxfp4", "int4"], Quantity],
        Field(min_length=1, max_length=6),
    ]
    """Dense floating-point operations a second of one GPU, by number format."""
    memory_bandwidth: Quantity
    """Bytes a second between one GPU and its memory."""
    links: Annotated[tuple[Link, ...], Field(min_length=1, max_length=3)]
    """The network, one entry a tier; at most one of each scope."""

    @model_validator(mode="after")
    def _one_link_a_scope(self) -> Self:
        scopes = [link.scope for link in self.links]
        if len(set(scopes)) != len(scopes):
            raise ValueError("links has more than one entry of the same scope")
        return self


class Hardware(Section):
    """The GPUs that the replicas run on. Exactly one of accelerator and spec."""

    accelerator: Name | None = None
    """Catalogue name of the GPU, such as h200-sxm."""
    spec: Accelerator | None = None
    """The GPU's figures, for one that the catalogue does not hold."""
    resource_name: Name = "nvidia.com/gpu"
    """Kubernetes resource that a pod requests for each GPU."""
    gpus_per_node: Count | None = None
    """GPUs of one node. Default: the accelerator's, or 8 for one given by its figures."""
    memory_reserve: Annotated[Fraction, Field(json_schema_extra={"default": "10%"})] = 0.1
    """Share of each GPU's memory that the plan leaves free."""

    @model_validator(mode="after")
    def _one_accelerator(self) -> Self:
        if (self.accelerator is None) == (self.spec is None):
            raise ValueError("needs exactly one of accelerator and spec")
        return self


class ExpertLoadsSource(Section):
    """Where measured expert loads are read from."""

    config_map_key_ref: ConfigMapKey
    """The ConfigMap and key that hold what `moe loads` wrote."""


class Parallelism(Section):
    """How one replica is dealt over its GPUs: ep·tp·pp ranks."""

    ep: Degree
    """Expert-parallel degree: shards over which experts and requests are dealt; an integer or auto."""
    tp: Degree = 1
    """Tensor-parallel degree: ranks over which each attention, expert and dense layer is split; an integer or auto."""
    pp: Degree = 1
    """Pipeline-parallel degree: stages over which the layers are dealt; an integer or auto."""
    gpus: Annotated[StrictInt, Field(ge=1, le=MAX_DEGREE)] | None = None
    """GPUs of one replica, for degrees that are auto."""
    rank_order: Annotated[tuple[Dimension, ...], Field(min_length=3, max_length=3)] = ("pp", "ep", "tp")
    """Nesting of the coordinates in the rank, outermost first."""
    redundant_experts: CountOrZero = 0
    """Copies of experts in each MoE layer beyond one of each."""
    expert_loads_from: ExpertLoadsSource | None = None
    """Measured loads by which experts and their copies are dealt, and routing is predicted. Running replicas keep the
    map that they have until this reference, or anything else that replaces them, changes."""
    micro_batches: Degree = "auto"
    """Parts into which a step is cut so that the stages overlap; an integer or auto."""
    allow_cross_node_tensor_parallel: StrictBool = False
    """Whether a tp group may span nodes."""

    @model_validator(mode="after")
    def _order_is_a_permutation(self) -> Self:
        if set(self.rank_order) != {"pp", "ep", "tp"}:
            raise ValueError(f"rankOrder must name pp, ep and tp once each, not {list(self.rank_order)}")
        return self


class Workload(Section):
    """What the deployment will serve; the plan sizes and predicts for it."""

    input_tokens: Count = 1024
    """Prompt tokens of a request."""
    output_tokens: Count = 1024
    """Generated tokens of a request."""
    concurrency: Count = 128
    """Requests in flight, over the whole deployment."""
    ttft: Duration | None = None
    """Target for the time to first token."""
    tpot: Duration | None = None
    """Target for the time per output token."""
    mode: Literal["serving", "training"] = "serving"
    """serving, or training to count gradients and optimizer state in the memory."""


class Levels(Section):
    """For each kind of group, the node label under one value of which its ranks lie."""

    tp: Name | None = None
    """Level for each tp group."""
    ep: Name | None = None
    """Level for each ep group."""
    pp: Name | None = None
    """Level for each pp group."""
    replica: Name | None = None
    """Level for the whole replica."""


class Topology(Section):
    """How placement follows the network."""

    levels: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    """Node labels from the narrowest tier of the network to the widest. Default: those known of the clouds."""
    required: Levels = Levels.model_construct()
    """Levels that must hold, or the replica is not placed."""
    preferred: Levels = Levels.model_construct()
    """Levels that raise the placement score where they hold."""
    replicas: Literal["spread", "pack"] = "pack"
    """Whether replicas keep apart or together."""


class Toleration(Section):
    """A Kubernetes toleration of the pods."""

    key: Name | None = None
    """Taint key; all keys when absent."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How value is compared."""
    value: Annotated[StrictStr, Field(max_length=63)] | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; all effects when absent."""
    toleration_seconds: CountOrZero | None = None
    """Seconds for which NoExecute is tolerated."""


class Scheduling(Section):
    """How pods reach the scheduler."""

    gang: Literal["auto", "none", "native", "volcano", "kueue"] = "auto"
    """Gang scheduler; auto takes what the cluster serves."""
    queue_name: Name | None = None
    """Queue that admits a replica before it runs."""
    scheduler_name: Name | None = None
    """Scheduler of the pods."""
    priority_class_name: Name | None = None
    """Priority class of the pods."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=64)] = ()
    """Taints that the pods tolerate."""
    node_selector: Annotated[dict[Name, Annotated[StrictStr, Field(max_length=63)]], Field(max_length=64)] = {}
    """Labels that a node must carry."""


class Rollout(Section):
    """How a changed spec reaches the replicas."""

    max_surge: CountOrZero = 0
    """Replicas above the desired count during a rollout."""
    max_unavailable: CountOrZero = 1
    """Replicas that may be down during a rollout."""
    partition: CountOrZero = 0
    """Replicas with an index below this keep the old spec."""


class Failure(Section):
    """What happens when a rank is lost."""

    policy: Literal["restart", "degrade"] = "restart"
    """restart the whole replica, or go on degraded."""
    max_restarts: CountOrZero = 5
    """Restarts of a replica before it is Stalled."""
    backoff: Annotated[Duration, Field(json_schema_extra={"default": "10s"})] = 10.0
    """Wait before the first restart; doubled each time."""
    allow_expert_loss: StrictBool = False
    """Whether a degraded replica may serve without an expert."""


class EnvVar(Section):
    """An environment variable of the container."""

    name: Name
    """Name of the variable."""
    value: Annotated[StrictStr, Field(max_length=32768)] = ""
    """Value of the variable."""


class Resources(Section):
    """Requests and limits of the container beside its GPUs."""

    requests: Annotated[dict[Name, StrictStr | StrictInt], Field(max_length=16)] = {}
    """Requested amounts, by resource name."""
    limits: Annotated[dict[Name, StrictStr | StrictInt], Field(max_length=16)] = {}
    """Upper bounds, by resource name."""


class Runtime(Section):
    """What computes the model."""

    engine: Literal["moe", "sglang", "vllm", "tensorrt-llm"] = "moe"
    """Serving engine; moe is the bundled runtime."""
    image: Text | None = None
    """Container image. Default: the engine's."""
    args: Annotated[tuple[Annotated[StrictStr, Field(max_length=4096)], ...], Field(max_length=128)] = ()
    """Arguments appended to the engine's command."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=128)] = ()
    """Environment variables of the container."""
    resources: Resources = Resources.model_construct()
    """CPU, memory and other resources of a pod."""
    pod_template: Annotated[
        dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
    ] = {}
    """Overrides of the pod, merged strategically."""


class SecretKey(Section):
    """One key of a Secret in the deployment's namespace."""

    name: Name
    """Name of the Secret."""
    key: Name
    """Key within it."""


class Serving(Section):
    """The endpoint and its limits."""

    port: Annotated[StrictInt, Field(ge=1, le=65535)] = 8000
    """TCP port of the endpoint."""
    max_model_length: Count | None = None
    """Longest request, prompt and output together, in tokens. Default: the workload's."""
    max_batch_tokens: Count | None = None
    """Most tokens that one shard computes in one step. Default: 8192 or maxModelLength, whichever is less."""
    capacity_factor: Annotated[float, Field(gt=0, le=1024, allow_inf_nan=False)] | None = None
    """Most tokens of an expert in a step, as a multiple of an even share; no limit when absent."""
    api_key_secret_ref: SecretKey | None = None
    """Secret that holds the key which requests must bear."""


class Spec(Section):
    """What a person asks for."""

    model_config = ConfigDict(
        defer_build=False
    )  # read as part of a manifest, and hashed by itself: built once for both

    model: Model
    """The model."""
    hardware: Hardware
    """The GPUs."""
    parallelism: Parallelism
    """The layout of one replica."""
    workload: Workload = Workload.model_construct()
    """The load to plan for."""
    replicas: CountOrZero = 1
    """Whole model copies."""
    topology: Topology = Topology.model_construct()
    """How placement follows the network."""
    scheduling: Scheduling = Scheduling.model_construct()
    """How pods reach the scheduler."""
    rollout: Rollout = Rollout.model_construct()
    """How a change reaches the replicas."""
    failure: Failure = Failure.model_construct()
    """What happens when a rank is lost."""
    runtime: Runtime = Runtime.model_construct()
    """What computes the model."""
    serving: Serving = Serving.model_construct()
    """The endpoint."""


class Metadata(BaseModel):
    """The object's name; what an API server adds is kept out of the plan."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    name: Annotated[StrictStr, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
    """Name of the deployment: a DNS label, since services are named after it."""
    namespace: StrictStr = "default"
    """Namespace of the deployment."""


class MoEDeployment(BaseModel):
    """A whole manifest. `status` of an exported object is ignored."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, defer_build=True)

    api_version: Literal["moe-operator.dev/v1alpha1"]
    kind: Literal["MoEDeployment"]
    metadata: Metadata
    spec: Spec
    status: Any = None
