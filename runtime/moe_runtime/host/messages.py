"""What the frontend tells the parent of the ranks at its start, and what the parent tells it at the end."""

import json
import signal
from dataclasses import asdict, dataclass
from typing import Literal

from moe_runtime.errors import RankLost, RanksCut, RanksFailed, RuntimeFailure

Device = Literal["cpu", "cuda"]
Keep = Literal["tokens", "logits"]
"""What the frontend gets to see of a step."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the parent is to run. File descriptors are inherited."""

    plan_fd: int
    """Holds the plan as JSON."""
    channel_fd: int
    checkpoint: str | None
    """Directory; None for synthetic weights."""
    device: Device
    keep: Keep
    slot: int | None
    """Slot whose ranks these are; None for all ranks of the replica."""
    address: str
    """Where other slots reach this one."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Orders":
        """Inverse of to_json."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Report:
    """Why the ranks cannot go on."""

    kind: Literal["failed", "lost", "cut"]
    """failed: they would fail again if started anew; lost: they may not; cut: another slot's end was theirs."""
    rank: int | None
    """None where the cause is a whole sentence."""
    cause: str

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str | bytes) -> "Report":
        """Inverse of to_json."""
        return cls(**json.loads(line))


def failure_of(report: Report) -> RuntimeFailure:
    """What is raised for a report."""
    if report.kind == "failed":
        return RanksFailed(report.cause)
    return RanksCut(None, report.cause) if report.kind == "cut" else RankLost(report.rank, report.cause)


def manner(status: int) -> str:
    """How a process ended, as a clause; `status` as subprocess gives it, negative for a signal."""
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    return f"was killed by {name}" + (" (by a person, or by the kernel short of memory)" if name == "SIGKILL" else "")
