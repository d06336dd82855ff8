"""Whether groups fit whole: the parts that must stay together at each tier, and how many of them each domain holds.

A level held for a kind makes the slots of each of its groups one part at that tier and all wider ones, so that parts
nest as domains do. Groups of a kind are equally large; a domain of tier t then holds as many parts of tier t as its
domains of tier t − 1 hold parts of theirs, divided by how many of those make one, rounded down. Where overlapping
groups make parts of different sizes all count as the largest, which errs to the safe side.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from moe_operator.placement.groups import Kind, Traffic
from moe_operator.placement.network import Network

Held = Mapping[Kind, int]
"""Tier in one domain of which each group of a kind lies."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a replica by tier, from 0 to the top."""

    of: tuple[tuple[int, ...], ...]
    """Part of each slot, by tier."""
    count: tuple[int, ...]
    """Parts, by tier."""
    ratio: tuple[int, ...]
    """Parts of the tier below (slots, for tier 0) that the largest part is made of, by tier."""


@dataclass(frozen=True, slots=True)
class Room:
    """Slots that fit on each node, and in each domain of tier 1 how many nodes hold how many."""

    network: Network
    slots: tuple[int, ...]
    nodes: tuple[Mapping[int, int], ...]
    free: tuple[tuple[int, ...], ...]
    """Slots that fit in each domain, by tier below the cluster."""

    def parts(self, parts: Parts) -> list[list[int]]:
        """How many parts of each tier every domain holds, by tier below the cluster; tier 0 is left empty."""
        network, ratio = self.network, parts.ratio
        held = [
            sum(count * (slots // ratio[0]) for slots, count in nodes.items()) // ratio[1] if nodes else 0
            for nodes in self.nodes
        ]
        tiers = [[], held]
        for t in range(2, network.top):
            tiers.append([sum(tiers[-1][below] for below in domain) // ratio[t] for domain in network.children[t - 1]])
        return tiers

    def holds(self, parts: Parts) -> bool:
        """Whether the cluster holds the replica with its parts whole."""
        top, ratio = self.network.top, parts.ratio
        if top == 1:
            return sum(n * (slots // ratio[0]) for slots, n in self.nodes[0].items()) >= parts.count[0]
        return sum(self.parts(parts)[top - 1]) >= parts.count[top - 1]


def make_room(network: Network, slots: Sequence[int]) -> Room:
    """Room of a network in which each node has the given number of slots free."""
    counted = [Counter[int]() for _ in network.paths]
    for domain, fitting in zip(network.home, slots, strict=True):
        if fitting > 0:
            counted[domain][fitting] += 1
    free = [tuple(slots)]
    for children in network.children[:-1]:
        below = free[-1]
        free.append(tuple(sum(map(below.__getitem__, domain)) for domain in children))
    return Room(network, tuple(slots), tuple(counted), tuple(free))


@lru_cache(maxsize=1024)
def make_parts(traffic: Traffic, held: tuple[tuple[Kind, int], ...], top: int) -> Parts:
    """Parts of a replica whose kinds of group are held at the given tiers."""
    tier_of, joined = dict(held), list(range(traffic.slots))
    of: list[tuple[int, ...]] = []
    for tier in range(top + 1):
        for group in traffic.whole:
            if tier_of.get(group.kind) == tier:
                _join(joined, group.slots)
        of.append(tuple(_root(joined, slot) for slot in range(traffic.slots)))
    made = [_made_of(above, below) for below, above in pairwise([tuple(range(traffic.slots)), *of])]
    return Parts(tuple(of), tuple(map(len, made)), tuple(max(map(len, parts)) for parts in made))


def _made_of(parts: Sequence[int], below: Sequence[int]) -> list[set[int]]:
    members = defaultdict(set)
    for part, piece in zip(parts, below, strict=True):
        members[part].add(piece)
    return list(members.values())


def _join(joined: list[int], slots: Sequence[int]) -> None:
    first = _root(joined, slots[0])
    for slot in slots[1:]:
        other = _root(joined, slot)
        joined[max(first, other)] = first = min(first, other)


def _root(joined: list[int], slot: int) -> int:
    while joined[slot] != slot:
        joined[slot] = slot = joined[joined[slot]]
    return slot
