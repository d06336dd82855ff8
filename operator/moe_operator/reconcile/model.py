"""What a decision reads and what it says: plain data between the shell that talks to the API server and the pure core."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from moe_operator.engines import Images

Object = Mapping[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class Absent:
    """A slot that its frontend misses."""

    slot: int
    said: str = ""
    """Why, as the slot itself says; empty where it was not asked or did not answer."""


@dataclass(frozen=True, slots=True)
class Slow:
    """A slot that computes longer than the others."""

    slot: int
    factor: float
    """Its compute time over the median of all slots'."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the endpoint of a replica said when it was last asked."""

    answered: bool
    """Whether /health answered that requests are served."""
    said: str = ""
    """Why it did not answer, for people: 'connection refused', 'HTTP 503'."""
    ttft: float | None = None
    """Median measured time to first token, seconds; None until requests have been served."""
    tpot: float | None = None
    """Median measured time per output token, seconds."""
    tokens_per_second: float | None = None
    """Measured output tokens a second of this replica."""
    absent: tuple[Absent, ...] = ()
    """Slots that the frontend waits for."""
    slow: tuple[Slow, ...] = ()
    """Slots that slow the others down."""


@dataclass(frozen=True, slots=True)
class View:
    """All that a decision reads. Nothing else decides, so the same view gives the same decision."""

    deployment: Object
    """The MoEDeployment as the API server holds it."""
    now: datetime
    """Time of the decision, with a time zone."""
    children: tuple[Object, ...] = ()
    """Every object labelled for the deployment, and every object that bears the name of one of its children."""
    nodes: tuple[Object, ...] = ()
    """All Node objects; trimmed to what placement reads."""
    pods: tuple[Object, ...] = ()
    """All pods of the cluster, trimmed likewise: they hold capacity."""
    config: Mapping[str, Any] | None = None
    """The config.json that spec.model.configFrom names; None when not asked for, absent or not JSON."""
    expert_loads: Mapping[str, Any] | None = None
    """The measured loads that spec.parallelism.expertLoadsFrom names; None likewise."""
    endpoints: Mapping[int, Endpoint] = field(default_factory=dict)
    """By replica; a replica that was not asked yet is absent."""
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Warning events of pods that are stuck before their containers, by uid: "REASON: note", the newest first."""
    served: frozenset[str] = frozenset()
    """API groups that the cluster serves beyond the core, such as scheduling.volcano.sh and kueue.x-k8s.io."""
    images: Images = ()
    """The operator's own images of engines, where a manifest names none."""
    refused: str | None = None
    """What the API server said when it has just refused a write for good (invalid, forbidden, over a quota). Such a
    decision makes no pods: it gives back what half a replica holds, and says so in the status."""
    failing: str | None = None
    """What the API server says to a write that has failed again and again, though it may succeed later."""


@dataclass(frozen=True, slots=True)
class Write:
    """One call to the API server."""

    verb: Literal["apply", "delete"]
    object: Object
    """To apply: the object, whole. To delete: apiVersion, kind, metadata {name, namespace, uid}; the uid is a
    precondition, so that a successor of the same name is left alone."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event on the MoEDeployment."""

    type: Literal["Normal", "Warning"]
    reason: str
    """CamelCase word for machines."""
    message: str
    """Sentence for people."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. An empty decision means that all is as wanted, or that nothing can be done yet."""

    stages: tuple[tuple[Write, ...], ...] = ()
    """Stages in order: one starts when all writes of the one before have succeeded; writes of a stage go out together."""
    status: Mapping[str, Any] | None = None
    """Whole status to apply via the status subresource after the stages; None when it is as observed."""
    events: tuple[Event, ...] = ()
    """To be posted after the status is written, so that a crash in between repeats none."""
    wake_after_s: float | None = None
    """Look again then, without any event; None when only an event can change anything."""
