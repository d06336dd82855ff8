"""What a placement costs: how many tiers each group climbs, weighted by how much its kind talks.

Of a group, h is the tier of the narrowest domain that holds all its nodes (0: one node), and m the mean of that tier
over all pairs of its ranks in different slots. It costs h + m / (top + 1): a collective is as slow as its longest
path, and among equally long ones less traffic over it is better. A kind costs its weight times the mean over its
groups; groups outside a preferred level cost as much again as a group spread over the whole cluster.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from moe_operator.placement.groups import Group, Kind, Traffic, apart
from moe_operator.placement.network import Network, weights

Where = Sequence[int]
"""Node of each slot, by number in the network."""

NEGLIGIBLE = 1e-9
"""Costs that differ by less are equal."""


@dataclass(frozen=True)
class Cost:
    """The cost of the placements of one replica in one network."""

    network: Network
    traffic: Traffic
    preferred: Mapping[Kind, int | None]
    """Tier preferred for each kind; None for a level that no node carries."""

    @property
    def worst(self) -> float:
        """All groups spread over the whole cluster, every pair of ranks too."""
        top = self.network.top
        kinds = {group.kind for group in self.traffic.talking}
        return sum(weights()[kind] * top * (1 + 1 / (top + 1)) for kind in kinds) + sum(
            weights()[kind] * self._full for kind in self.preferred if kind in kinds
        )

    @property
    def _full(self) -> float:
        return self.network.top + 1

    @cached_property
    def terms(self) -> tuple[list[tuple[Group, float]], list[tuple[Group, float]]]:
        """Talking groups, and groups with a preferred level, each with its share of its kind times the weight."""
        wanted = [group for group in self.traffic.whole if group.kind in self.preferred]
        return _weighted(self.traffic.talking), _weighted(wanted)

    def total(self, where: Where) -> float:
        """The cost of a placement, preferences included."""
        return self.of(*self.terms, where)

    def plain(self, where: Where) -> float:
        """The cost of a placement without the preferences."""
        return self.of(self.terms[0], [], where)

    def of(self, talking: Iterable[tuple[Group, float]], wanted: Iterable[tuple[Group, float]], where: Where) -> float:
        """The cost of some of the `terms`."""
        return sum(weight * self._climb(group, where) for group, weight in talking) + sum(
            weight * self._full for group, weight in wanted if not self.holds(group, self.preferred[group.kind], where)
        )

    def holds(self, group: Group, tier: int | None, where: Where) -> bool:
        """Whether a group lies in one domain of a tier."""
        return tier is not None and len({self.network.domain(tier, where[slot]) for slot in group.slots}) == 1

    def _climb(self, group: Group, where: Where) -> float:
        network, total, height = self.network, 0, 0
        nodes = [where[slot] for slot in group.slots]
        paths = [network.paths[network.home[node]] for node in nodes]
        for tier in range(network.top):
            ranks = _ranks([path[tier - 1] for path in paths] if tier else nodes, group.ranks)
            if len(ranks) == 1:
                break
            height = tier + 1
            total += apart(ranks.values())
        return height + total / group.pairs / (network.top + 1)


def spans(network: Network, group: Group, tier: int, where: Where) -> int:
    """Domains of a tier that a group lies in."""
    return len({network.domain(tier, where[slot]) for slot in group.slots})


def parted(network: Network, group: Group, tier: int, where: Where) -> int:
    """Pairs of ranks of a group that lie in different domains of a tier."""
    return apart(_ranks([network.domain(tier, where[slot]) for slot in group.slots], group.ranks).values())


def _ranks(domains: Iterable[int], ranks: Iterable[int]) -> dict[int, int]:
    total: dict[int, int] = {}
    for domain, count in zip(domains, ranks, strict=True):
        total[domain] = total.get(domain, 0) + count
    return total


def _weighted(groups: Sequence[Group]) -> list[tuple[Group, float]]:
    of_kind: dict[Kind, int] = {}
    for group in groups:
        of_kind[group.kind] = of_kind.get(group.kind, 0) + len(group.numbers)
    return [(group, weights()[group.kind] * len(group.numbers) / of_kind[group.kind]) for group in groups]
