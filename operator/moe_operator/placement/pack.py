"""A placement in one pass: from the cluster down, each domain's slots go to as few of its domains as hold them.

Where a domain below holds all that is left, the one that it fills best takes it (best fit, which keeps large domains
whole for others); else the roomiest takes what it can, up to where a stage begins if it can. Parts that must stay
together move as one.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from moe_operator.placement.fit import Parts, Room
from moe_operator.placement.groups import Traffic
from moe_operator.placement.network import Network, natural

Taste = Callable[[int, int], Any]
"""Sorting key of a domain, by tier and number: those that other replicas make more welcome first."""


@dataclass(frozen=True, slots=True)
class Packer:
    """Packs one replica."""

    traffic: Traffic
    room: Room
    parts: Parts
    pinned: Mapping[int, int]
    """Slots that have their node already."""
    taste: Taste
    held: list[list[int]]
    """Parts that each domain holds, by tier."""

    def pack(self) -> list[int] | None:
        """Node of each slot; None where pinned slots are in the way of parts that must stay together."""
        where = [-1] * self.traffic.slots
        ok = self._fill(self._network.top, 0, self.traffic.order, where)
        return where if ok else None

    @property
    def _network(self) -> Network:
        return self.room.network

    def _fill(self, tier: int, domain: int, slots: Sequence[int], where: list[int]) -> bool:
        if tier == 0:
            for slot in slots:
                where[slot] = domain
            return True
        atoms = self._atoms(tier - 1, slots)
        dealt = self._deal(tier, domain, atoms)
        if dealt is None:
            return False
        return all(self._fill(tier - 1, below, mine, where) for below, mine in dealt.items())

    def _atoms(self, tier: int, slots: Iterable[int]) -> list[list[int]]:
        """The slots by the part of a tier that they belong to, in order."""
        parts: dict[int, list[int]] = {}
        of = self.parts.of[tier]
        for slot in slots:
            parts.setdefault(of[slot], []).append(slot)
        return list(parts.values())

    def _deal(self, tier: int, domain: int, atoms: list[list[int]]) -> dict[int, list[int]] | None:
        """Slots of each domain below."""
        rooms = {below: self._holds(tier - 1, below) for below in self._network.children[tier - 1][domain]}
        dealt: dict[int, list[int]] = {}
        loose = []
        for atom in atoms:
            pins = {self._network.domain(tier - 1, self.pinned[slot]) for slot in atom if slot in self.pinned}
            if not pins:
                loose.append(atom)
                continue
            below = pins.pop()
            if pins or rooms.get(below, 0) < 1:
                return None
            rooms[below] -= 1
            dealt.setdefault(below, []).extend(atom)
        if sum(rooms.values()) < len(loose):
            return None
        for below, some in self._runs(tier - 1, rooms, loose, frozenset(dealt)):
            dealt.setdefault(below, []).extend(slot for atom in some for slot in atom)
        return dealt

    def _holds(self, tier: int, domain: int) -> int:
        return self.room.slots[domain] // self.parts.ratio[0] if tier == 0 else self.held[tier][domain]

    def _runs(
        self, tier: int, rooms: dict[int, int], atoms: list[list[int]], used: frozenset[int]
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """Domains of a tier with the consecutive atoms that each takes."""
        names = self._network.labels[tier]
        free = self.room.free[tier]
        keys = {d: (self.taste(tier, d), free[d], natural(names[d]), d) for d, room in rooms.items() if room > 0}
        heaps = [[(-rooms[d], *keys[d]) for d in keys if (d in used) == near] for near in (True, False)]
        for heap in heaps:
            heapq.heapify(heap)
        begins, at = self._stage_begins(atoms), 0
        while at < len(atoms):
            left = len(atoms) - at
            if any(heap and -heap[0][0] >= left for heap in heaps):
                fitting = [d for d in keys if rooms[d] >= left]
                yield self._best_fit(tier, fitting, left, used, keys), atoms[at:]
                return
            heap = heaps[0] or heaps[1]
            d = heapq.heappop(heap)[-1]
            take = self._stage_end(begins, at, rooms[d]) - at
            yield d, atoms[at : at + take]
            at += take
            rooms[d] -= take
            if rooms[d]:
                heapq.heappush(heap, (-rooms[d], *keys[d]))

    def _best_fit(
        self,
        tier: int,
        fitting: Sequence[int],
        atoms: int,
        used: frozenset[int],
        keys: Mapping[int, tuple[Any, ...]],
    ) -> int:
        """Of domains that hold all the atoms: one used already, cut up least, most welcome, tightest."""

        def key(domain: int) -> tuple[Any, ...]:
            cuts, free = self._shape(tier, domain, atoms)
            welcome, *others = keys[domain]
            return domain not in used, cuts, welcome, free, *others

        return min(fitting, key=key)

    def _shape(self, tier: int, domain: int, atoms: int) -> tuple[tuple[int, ...], int]:
        """How few domains of each tier below the atoms are dealt to, down to where they are first cut up.

        And the slots that fit in the narrowest domain that holds all the atoms.
        """
        free = self.room.free[tier][domain]
        if tier == 0:
            return (), free
        needed = atoms * self.parts.ratio[tier]
        below = self._network.children[tier - 1][domain]
        rooms = [self._holds(tier - 1, d) for d in below]
        if max(rooms) >= needed:
            whole = [d for d, room in zip(below, rooms, strict=True) if room >= needed]
            cuts, free = min(self._shape(tier - 1, d, needed) for d in whole)
            return (1, *cuts), free
        rooms.sort(reverse=True)
        return (next((i for i, total in enumerate(accumulate(rooms), 1) if total >= needed), len(rooms)),), free

    def _stage_begins(self, atoms: Sequence[Sequence[int]]) -> list[int]:
        """Positions of the atoms with which a stage begins."""
        first = {self.traffic.order[position] for position in self.traffic.breaks}
        return [i for i, atom in enumerate(atoms) if any(slot in first for slot in atom)]

    @staticmethod
    def _stage_end(begins: Sequence[int], at: int, room: int) -> int:
        """Where to stop: the last stage begun within the room, or else the room's end."""
        return max((begin for begin in begins if at < begin <= at + room), default=at + room)
