"""Which replicas to make, to replace and to remove now: numbers in, indices out.

With D desired replicas, U of them allowed down and S serving, S − (D − U) serving replicas may be taken down now. A
replica that has never served costs nothing to replace; one that served and does not answer is replaced only while no
more than U are down, since it may come back by itself. Higher indices go first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moe_plan.spec import Rollout


@dataclass(frozen=True, slots=True)
class Standing:
    """What a rollout knows of a replica."""

    index: int
    current: bool
    """Whether it runs the plan that it shall run."""
    serving: bool
    """Whether its endpoint answers."""
    served: bool
    """Whether the endpoint has answered since the replica was last made or restarted."""
    surge: bool = False
    """Whether it was made beyond the desired count, for a rollout."""


@dataclass(frozen=True, slots=True)
class Step:
    """What may be done now."""

    create: tuple[int, ...]
    surge: tuple[int, ...]
    """To be made beyond the desired count, if there is room."""
    replace: tuple[int, ...]
    """In the order in which they may be; the first `free` of them cost nothing."""
    free: int
    remove: tuple[int, ...]


def next_step(standing: Sequence[Standing], desired: int, rollout: Rollout) -> Step:
    """What may be done now. The same standing gives the same step; when all is as wanted, the step is empty."""
    outdated = [r for r in standing if not r.current and (r.index < desired or r.surge)]
    needed = sum(r.index < desired for r in outdated)
    indices = {r.index for r in standing}
    staying = [r for r in standing if r.index < desired or r.surge]
    spare = sum(r.serving for r in staying) - (desired - rollout.max_unavailable)
    surge = range(desired, desired + min(rollout.max_surge, needed))
    free, costly = _replaceable(outdated, spare)
    return Step(
        create=tuple(i for i in range(desired) if i not in indices),
        surge=tuple(i for i in surge if i not in indices),
        replace=(*free, *costly),
        free=len(free),
        remove=tuple(_superfluous(standing, desired, spare if not outdated else None)),
    )


def _replaceable(outdated: Iterable[Standing], spare: int) -> tuple[list[int], list[int]]:
    """Outdated replicas whose replacement costs nothing, and as many of the others as may be down."""
    ordered = sorted(outdated, key=lambda r: -r.index)
    free = [r.index for r in ordered if not r.served and not r.serving]
    silent = [r.index for r in ordered if r.served and not r.serving]
    serving = [r.index for r in ordered if r.serving]
    return free, [*(silent if spare >= 0 else ()), *serving[: max(0, spare)]]


def _superfluous(standing: Iterable[Standing], desired: int, spare: int | None) -> Iterable[int]:
    """Replicas beyond the desired count; those made for a rollout stay until it is over (`spare` is not None)."""
    for replica in sorted(standing, key=lambda r: -r.index):
        if replica.index < desired:
            continue
        if not replica.surge:
            yield replica.index
        elif spare is not None and (spare > 0 or not replica.serving):
            spare -= replica.serving
            yield replica.index
