"""The cheapest placement found: kinds held as narrowly as they fit in several orders, packed, and then improved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from moe_operator.placement import exact, improve
from moe_operator.placement.bound import lower_bound
from moe_operator.placement.cost import NEGLIGIBLE, Cost
from moe_operator.placement.fit import Held, Room, make_parts, make_room
from moe_operator.placement.groups import KINDS, Kind
from moe_operator.placement.pack import Packer, Taste

_ORDERS: tuple[tuple[Kind, ...], ...] = (KINDS, ("replica", "tp", "ep", "pp"), ("tp", "pp", "ep", "replica"))
"""Orders in which kinds are held as narrowly as they fit: whichever talks most is not always worth the others."""


@dataclass(frozen=True, slots=True)
class Task:
    """One replica to place in one network."""

    cost: Cost
    required: Mapping[Kind, int]
    """Tiers that must hold."""
    capacity: tuple[int, ...]
    """Slots that fit on each node."""
    taste: Taste
    pinned: Mapping[int, int]
    """Slots that have their node already."""

    def emptied(self, capacity: Sequence[int]) -> "Task":
        """The same replica, free to go anywhere in the same network with other capacities."""
        return replace(self, capacity=tuple(capacity), pinned={}, taste=lambda _tier, _domain: 0)


def solve(task: Task) -> list[int] | None:
    """Node of each slot, by number; None where none was found."""
    network = task.cost.network
    room = make_room(network, task.capacity)
    best, least = None, float("inf")
    for held in _holds(task, room):
        parts = make_parts(task.cost.traffic, tuple(sorted(held.items())), network.top)
        where = Packer(task.cost.traffic, room, parts, task.pinned, task.taste, room.parts(parts)).pack()
        cost = task.cost.total(where) if where else least
        if cost < least - NEGLIGIBLE:
            best, least = where, cost
    return best


def improved(task: Task, where: list[int]) -> list[int]:
    """A cheaper placement, if the given one can be bettered and one is found."""
    cost = task.cost
    if cost.total(where) <= lower_bound(cost, task.capacity) + NEGLIGIBLE:
        return where
    loose = [slot for slot in cost.traffic.order if slot not in task.pinned]
    if len(loose) <= exact.MAX_SLOTS:
        where = exact.cheapest(cost, task.required, task.capacity, where, loose)
    if len(loose) <= improve.MAX_SLOTS:
        where = improve.climb(cost, task.required, task.capacity, where, loose)
    return where


def _holds(task: Task, room: Room) -> Iterator[Held]:
    """Tiers to hold, in the hope of a cheap placement; what is required alone comes last."""
    wanted = {kind: tier for kind, tier in task.cost.preferred.items() if tier is not None}
    seen: list[Held] = []
    for start in (_added(task, room, wanted), task.required) if wanted else (task.required,):
        for order in _ORDERS:
            held = _tightened(task, room, start, order)
            if held not in seen:
                seen.append(held)
                yield held
    if task.required not in seen:
        yield task.required


def _added(task: Task, room: Room, wanted: Held) -> Held:
    """The required tiers and those of the wanted ones that fit besides."""
    held = dict(task.required)
    for kind in KINDS:
        if kind in wanted and wanted[kind] < held.get(kind, task.cost.network.top):
            trial = {**held, kind: wanted[kind]}
            held = trial if _fits(task, room, trial) else held
    return held


def _tightened(task: Task, room: Room, held: Held, order: Sequence[Kind]) -> Held:
    """Each kind of group, in order, at the narrowest tier at which all its groups fit beside what is held already."""
    present = {group.kind for group in task.cost.traffic.whole}
    for kind in order:
        for tier in range(held.get(kind, task.cost.network.top)) if kind in present else ():
            trial = {**held, kind: tier}
            if _fits(task, room, trial):
                held = trial
                break
    return held


def _fits(task: Task, room: Room, held: Held) -> bool:
    return room.holds(make_parts(task.cost.traffic, tuple(sorted(held.items())), task.cost.network.top))
