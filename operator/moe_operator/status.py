"""The status of a MoEDeployment as the operator writes it: kstatus conditions, the plan's figures, each replica.

Bounded: 64 replicas of 128 ranks stay far below etcd's limit of 1.5 MiB an object.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

MAX_REPLICAS_SHOWN = 64
"""Replicas that the status describes one by one."""
MAX_SLOTS = 1024
"""Slots of a replica: the largest world in pods of one GPU."""

Word = Annotated[str, Field(max_length=64)]
Sentence = Annotated[str, Field(max_length=1024)]
Message = Annotated[str, Field(max_length=16384)]
Number = Annotated[int, Field(ge=0, le=2**31 - 1)]

ConditionType = Literal["Ready", "Reconciling", "Stalled", "ParallelismValid", "Placed", "Available"]


class StatusPart(BaseModel):
    """A part of the status: camelCase, closed, immutable."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Condition(StatusPart):
    """A Kubernetes condition."""

    type: ConditionType
    """Type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """CamelCase word for machines."""
    message: Message
    """Sentence for people."""
    observed_generation: Annotated[int, Field(ge=0)]
    """metadata.generation that the condition speaks of."""
    last_transition_time: Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
    """When status last changed."""


class PlanFigures(StatusPart):
    """What the plan proves and predicts."""

    hash: Word
    """Hash of all that decides pods."""
    model: Sentence
    """Name of the model."""
    degrees: Word
    """The degrees, such as ep64·tp2·pp1."""
    gpus: Number
    """GPUs of one replica."""
    memory_per_gpu: Word
    """Memory of the fullest rank without its KV cache."""
    ttft: Word
    """Predicted time to first token."""
    tpot: Word
    """Predicted time per output token."""
    tokens_per_second: Number
    """Predicted output tokens a second of the whole deployment."""


class MeasuredFigures(StatusPart):
    """What the runtime measures while it serves."""

    ttft: Word
    """Median time to first token."""
    tpot: Word
    """Median time per output token."""
    tokens_per_second: Number
    """Output tokens a second of the whole deployment."""


class ReplicaStatus(StatusPart):
    """One replica."""

    index: Number
    """Index of the replica."""
    phase: Literal["Pending", "Starting", "Ready", "Restarting", "Failed", "Terminating"]
    """Where the replica stands."""
    hash: Word
    """Hash of the plan that its pods were made from."""
    ready_slots: Number
    """Slots whose pod is ready."""
    slots: Number
    """Slots of the replica."""
    nodes: Annotated[tuple[Annotated[str, Field(max_length=253)], ...], Field(max_length=MAX_SLOTS)]
    """Node of each slot, in order."""
    placement_score: Annotated[str, Field(max_length=8)]
    """How well the placement follows the network, from 0 to 1."""
    placement_misses: Annotated[tuple[Sentence, ...], Field(max_length=8)] = ()
    """Why the score is below 1."""
    restarts: Number = 0
    """Restarts since the replica was last ready for long."""
    last_reason: Word | None = None
    """Cause of the last restart, as a word."""
    last_failure: Message | None = None
    """Cause of the last restart, as a sentence."""


class Status(StatusPart):
    """Everything that the operator says of a MoEDeployment."""

    observed_generation: Annotated[int, Field(ge=0)]
    """metadata.generation that this status speaks of."""
    replicas: Number = 0
    """Replicas that exist."""
    ready_replicas: Number = 0
    """Replicas whose endpoint answers."""
    ready: Word = "0/0"
    """Ready and desired replicas."""
    selector: Annotated[str, Field(max_length=512)] = ""
    """Label selector of the pods, for the HPA."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
        ),
    ] = ()
    """Conditions in kstatus form."""
    plan: PlanFigures | None = None
    """Figures of the plan."""
    measured: MeasuredFigures | None = None
    """Measured figures."""
    replica_statuses: Annotated[
        tuple[ReplicaStatus, ...],
        Field(
            max_length=MAX_REPLICAS_SHOWN,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["index"]},
        ),
    ] = ()
    """The replicas, by index."""
