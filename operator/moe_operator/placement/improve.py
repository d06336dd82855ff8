"""Better placements near a given one: one slot moved or two exchanged, as long as that lowers the cost.

The search is bounded by counted work, not by the clock, so that the same cluster gives the same placement.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from moe_operator.placement.cost import NEGLIGIBLE, Cost
from moe_operator.placement.fit import Held
from moe_operator.placement.groups import Group
from moe_operator.placement.network import natural

WORK = 40_000
"""Group members looked at before the search ends; about 20 ms."""

Terms = list[tuple[Group, float]]


def climb(cost: Cost, required: Held, capacity: Sequence[int], where: Sequence[int], loose: Sequence[int]) -> list[int]:
    """The placement after the last change of a loose slot that helped."""
    search = _Climb(cost, required, capacity, list(where), loose)
    while search.step():
        pass
    return search.where


@dataclass(slots=True)
class _Climb:
    cost: Cost
    required: Held
    capacity: Sequence[int]
    """Slots that fit on each node."""
    where: list[int]
    loose: Sequence[int]
    """Slots that may move."""
    work: int = WORK
    _talking: dict[int, Terms] = field(default_factory=dict)
    _wanted: dict[int, Terms] = field(default_factory=dict)
    _load: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        talking, wanted = self.cost.terms()
        self._talking, self._wanted = _by_slot(talking), _by_slot(wanted)
        self._load = Counter(self.where)

    def step(self) -> bool:
        """One pass over all changes, each kept if it helps."""
        helped = False
        for slot in self.loose:
            for node in self._targets():
                helped |= node != self.where[slot] and self._try({slot: node})
        for i, slot in enumerate(self.loose):
            for other in self.loose[i + 1 :]:
                here, there = self.where[slot], self.where[other]
                helped |= here != there and self._try({slot: there, other: here})
        return helped

    def _targets(self) -> list[int]:
        """One node with room of each kind that could make a difference: in each domain the tightest, and those in use."""
        network = self.cost.network
        best: dict[tuple[int, int], int] = {}
        for node, capacity in enumerate(self.capacity):
            if capacity > self._load[node]:
                key = (network.home[node], node if self._load[node] else -1)
                if key not in best or self._tightness(node) < self._tightness(best[key]):
                    best[key] = node
        return list(best.values())

    def _tightness(self, node: int) -> tuple[int, tuple[int | str, ...]]:
        return self.capacity[node], natural(self.cost.network.names[node])

    def _try(self, moves: dict[int, int]) -> bool:
        """Make the moves if they are allowed and lower the cost."""
        if self.work <= 0:
            return False
        talking, wanted = self._terms(moves)
        before = self.cost.of(talking, wanted, self.where)
        old = {slot: self.where[slot] for slot in moves}
        self._put(moves)
        self.work -= sum(len(group.slots) for group, _ in talking) + len(talking) + 1
        if self._allowed(moves) and self.cost.of(talking, wanted, self.where) < before - NEGLIGIBLE:
            return True
        self._put(old)
        return False

    def _terms(self, slots: Collection[int]) -> tuple[Terms, Terms]:
        return _union(self._talking, slots), _union(self._wanted, slots)

    def _put(self, moves: dict[int, int]) -> None:
        for slot, node in moves.items():
            self._load[self.where[slot]] -= 1
            self._load[node] += 1
            self.where[slot] = node

    def _allowed(self, moves: dict[int, int]) -> bool:
        whole = self.cost.traffic.whole
        return all(self._load[node] <= self.capacity[node] for node in moves.values()) and all(
            self.cost.holds(group, self.required[group.kind], self.where)
            for group in whole
            if group.kind in self.required and not moves.keys().isdisjoint(group.slots)
        )


def _by_slot(terms: Iterable[tuple[Group, float]]) -> dict[int, Terms]:
    found: defaultdict[int, Terms] = defaultdict(list)
    for term in terms:
        for slot in term[0].slots:
            found[slot].append(term)
    return found


def _union(terms: dict[int, Terms], slots: Collection[int]) -> Terms:
    seen: dict[int, tuple[Group, float]] = {}
    for term in _each(terms, slots):
        seen[id(term)] = term
    return list(seen.values())


def _each(terms: dict[int, Terms], slots: Collection[int]) -> Iterator[tuple[Group, float]]:
    for slot in slots:
        yield from terms.get(slot, ())
