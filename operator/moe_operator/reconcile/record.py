"""The record of a replica: what was decided of it and cannot be read from its pods.

It is written before the pods of an attempt are made. Beside the objects themselves it is the only state, so that an
operator that dies after any write is followed by one that finishes the same way.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import format_time, parse_time

KEY = "record.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What was decided of one replica."""

    plan: str
    """Hash of the plan that its pods are made from."""
    attempt: int
    """Grows with each new set of pods; their label tells which attempt they belong to."""
    nodes: tuple[str, ...]
    """Node of each slot; empty while no nodes are found for a replica that lost its own."""
    score: float | None = None
    """Placement score, 0 to 1."""
    misses: tuple[str, ...] = ()
    """Why the score is below 1."""
    restarts: int = 0
    """Restarts since the replica last served for long."""
    last_failure: str | None = None
    """Cause of the last restart."""
    last_reason: str | None = None
    """The same as a word for machines."""
    refusals: int = 0
    """How often the API server has refused its pods since it last served; each costs no restart."""
    not_before: datetime | None = None
    """When the pods of this attempt may be made."""
    ready_since: datetime | None = None
    """When the endpoint of this attempt first answered."""
    surge: bool = False
    """Whether the replica is beyond the desired count, for the time of a rollout."""
    failed: str | None = None
    """Why the replica is not restarted any more, as a word for machines; None while it is."""
    renewed: tuple[tuple[int, int], ...] = ()
    """Slots whose pod was replaced alone, and the attempt of that, for replicas that go on degraded."""

    def attempt_of(self, slot: int) -> int:
        """Attempt that the pod of a slot belongs to."""
        return dict(self.renewed).get(slot, self.attempt)

    @property
    def latest(self) -> int:
        """The last attempt of any slot."""
        return max([self.attempt, *(attempt for _, attempt in self.renewed)])

    def data(self) -> dict[str, Any]:
        """As JSON: camelCase, times as Kubernetes writes them."""
        return {_camel(key): _plain(value) for key, value in asdict(self).items()}


def read_record(holder: Object, slots: Mapping[str, int]) -> Record | None:
    """The record in a ConfigMap; None where it is not one, for whatever reason a person's edit may give.

    `slots` has the slots of each known plan by its hash.
    """
    try:
        data = json.loads((holder.get("data") or {})[KEY])
        record = Record(
            plan=_is(data["plan"], str),
            attempt=_is(data["attempt"], int),
            nodes=tuple(_is(node, str) for node in _is(data["nodes"], list)),
            score=None if data.get("score") is None else float(data["score"]),
            misses=tuple(_is(miss, str) for miss in data.get("misses") or ()),
            restarts=_is(data.get("restarts", 0), int),
            last_failure=None if data.get("lastFailure") is None else _is(data["lastFailure"], str),
            refusals=_is(data.get("refusals", 0), int),
            last_reason=None if data.get("lastReason") is None else _is(data["lastReason"], str),
            not_before=parse_time(data.get("notBefore")),
            ready_since=parse_time(data.get("readySince")),
            surge=_is(data.get("surge", False), bool),
            failed=None if data.get("failed") is None else _is(data["failed"], str),
            renewed=tuple((_is(slot, int), _is(attempt, int)) for slot, attempt in data.get("renewed") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    fits = not record.nodes or slots.get(record.plan, len(record.nodes)) == len(record.nodes)
    return record if fits and record.attempt >= 1 and record.restarts >= 0 else None


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _plain(value: Any) -> Any:
    return format_time(value) if isinstance(value, datetime) else list(value) if isinstance(value, tuple) else value


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.title() for word in rest)
