"""Better placements near a given one: one slot moved or two exchanged, as long as that lowers the cost.

The search is bounded by counted work, not by the clock, so that the same cluster gives the same placement.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from moe_operator.placement.cost import NEGLIGIBLE, Cost
from moe_operator.placement.fit import Held
from moe_operator.placement.groups import Group
from moe_operator.placement.spare import Spare

MAX_SLOTS = 32
"""Where more slots may move, a climb within bounded work is not worth its time."""
WORK = 8_000
"""Group members looked at before the climb ends; about 7 ms."""

Terms = list[tuple[Group, float]]


def climb(cost: Cost, required: Held, capacity: Sequence[int], where: Sequence[int], loose: Sequence[int]) -> list[int]:
    """The placement after the last change of a loose slot that helped."""
    spare = Spare(cost.network, capacity, where)
    talking, wanted = cost.terms
    search = _Climb(cost, required, list(where), loose, spare, _by_slot(talking), _by_slot(wanted))
    while search.moved(spare.in_use() + spare.near()) or search.exchanged() or search.moved([*spare.empty()]):
        pass
    return search.where


@dataclass(slots=True)
class _Climb:
    cost: Cost
    required: Held
    where: list[int]
    loose: Sequence[int]
    """Slots that may move."""
    spare: Spare
    talking: Mapping[int, Terms]
    wanted: Mapping[int, Terms]
    work: int = WORK

    def moved(self, nodes: Iterable[int]) -> bool:
        """Whether slots have moved to some of the nodes, to the good."""
        helped = False
        for node in nodes:
            for slot in self.loose:
                if self.spare.room[node] > 0 and node != self.where[slot]:
                    helped |= self._try({slot: node})
        return helped

    def exchanged(self) -> bool:
        """Whether slots have exchanged their nodes, to the good."""
        helped = False
        groups = {slot: {id(term) for term in self.talking.get(slot, ())} for slot in self.loose}
        for i, slot in enumerate(self.loose):
            for other in self.loose[i + 1 :]:
                here, there = self.where[slot], self.where[other]
                if here != there and groups[slot] != groups[other]:
                    helped |= self._try({slot: there, other: here})
        return helped

    def _try(self, moves: dict[int, int]) -> bool:
        """Make the moves if they are allowed and lower the cost."""
        if self.work <= 0:
            return False
        talking, wanted = _union(self.talking, moves), _union(self.wanted, moves)
        self.work -= 2 * sum(len(group.slots) for group, _ in talking) + len(moves)
        before = self.cost.of(talking, wanted, self.where)
        back = {slot: self.where[slot] for slot in moves}
        self._put(moves)
        if self._allowed(moves) and self.cost.of(talking, wanted, self.where) < before - NEGLIGIBLE:
            return True
        self._put(back)
        return False

    def _put(self, moves: dict[int, int]) -> None:
        for slot, node in moves.items():
            self.spare.give(self.where[slot])
            self.where[slot] = node
        for node in moves.values():
            self.spare.take(node)

    def _allowed(self, moves: dict[int, int]) -> bool:
        return all(
            self.cost.holds(group, self.required[group.kind], self.where)
            for group in self.cost.traffic.whole
            if group.kind in self.required and not moves.keys().isdisjoint(group.slots)
        )


def _by_slot(terms: Iterable[tuple[Group, float]]) -> Mapping[int, Terms]:
    found: defaultdict[int, Terms] = defaultdict(list)
    for term in terms:
        for slot in term[0].slots:
            found[slot].append(term)
    return found


def _union(terms: Mapping[int, Terms], slots: Collection[int]) -> Terms:
    return list({id(term): term for slot in slots for term in terms.get(slot, ())}.values())
