"""The cheapest placement of a few slots, by branch and bound.

Slots get their nodes in turn. What the groups cost among the slots placed so far can only grow, so a branch is left
once that reaches the cheapest placement known. Nodes of one domain that hold equally much and have nothing on them
are interchangeable; only the first of them is tried. The search is bounded by counted work, not by the clock.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from moe_operator.placement.cost import NEGLIGIBLE, Cost
from moe_operator.placement.fit import Held
from moe_operator.placement.groups import Group
from moe_operator.placement.spare import Spare

MAX_SLOTS = 8
"""Where more slots may move, all their placements are too many."""
WORK = 4_000
"""Nodes tried before the search ends; about 20 ms."""

Terms = list[tuple[Group, float]]


def cheapest(
    cost: Cost, required: Held, capacity: Sequence[int], where: Sequence[int], loose: Sequence[int]
) -> list[int]:
    """The cheapest placement that differs from the given one in loose slots, or the cheapest found in time."""
    pinned = set(range(len(where))) - set(loose)
    terms = [_among(cost, required, pinned | set(loose[: depth + 1])) for depth in range(len(loose))]
    spare = Spare(cost.network, capacity, [where[slot] for slot in pinned])
    branches = _Branches(cost, required, loose, list(where), list(where), cost.total(where), spare, terms)
    branches.descend(0)
    return branches.best


@dataclass(slots=True)
class _Branches:
    cost: Cost
    required: Held
    loose: Sequence[int]
    where: list[int]
    best: list[int]
    least: float
    spare: Spare
    terms: Sequence[tuple[Terms, Terms, list[Group]]]
    """Costs and requirements of the slots placed, by how many loose slots are."""
    work: int = WORK

    def descend(self, depth: int) -> None:
        """Try all nodes for the next slot, those that cost least first."""
        if depth == len(self.loose):
            self.best, self.least = list(self.where), self.cost.total(self.where)
            return
        slot = self.loose[depth]
        for so_far, node in sorted(self._options(depth, slot), key=lambda option: option[0]):
            if so_far >= self.least - NEGLIGIBLE or self.work <= 0:
                return
            self.where[slot] = node
            self.spare.take(node)
            self.descend(depth + 1)
            self.spare.give(node)

    def _options(self, depth: int, slot: int) -> Iterator[tuple[float, int]]:
        talking, wanted, whole = self.terms[depth]
        for node in (*self.spare.in_use(), *self.spare.empty()):
            self.work -= 1
            self.where[slot] = node
            if all(self.cost.holds(group, self.required[group.kind], self.where) for group in whole):
                yield self.cost.of(talking, wanted, self.where), node


def _among(cost: Cost, required: Held, placed: Collection[int]) -> tuple[Terms, Terms, list[Group]]:
    """The terms of the cost, and the groups with a required level, as far as their slots are placed."""
    talking, wanted = cost.terms
    whole = [group for group in cost.traffic.whole if group.kind in required]
    return (
        [(part, weight) for group, weight in talking if (part := _part(group, placed))],
        [(part, weight) for group, weight in wanted if (part := _part(group, placed))],
        [part for group in whole if (part := _part(group, placed))],
    )


def _part(group: Group, placed: Collection[int]) -> Group | None:
    """A group as far as it is placed; None while that is in one slot."""
    members = [(slot, ranks) for slot, ranks in zip(group.slots, group.ranks, strict=True) if slot in placed]
    if len(members) < 2:
        return None
    return replace(group, slots=tuple(slot for slot, _ in members), ranks=tuple(ranks for _, ranks in members))
