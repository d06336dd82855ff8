"""Rank and coordinate, both ways, for every rank order; and the groups in which ranks talk."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

Dimension = Literal["pp", "ep", "tp"]
DIMENSIONS: tuple[Dimension, ...] = ("pp", "ep", "tp")
DEFAULT_RANK_ORDER: tuple[Dimension, ...] = DIMENSIONS


class Coordinate(NamedTuple):
    """Where a rank stands in the layout."""

    pp: int
    ep: int
    tp: int


@dataclass(frozen=True, slots=True)
class Layout:
    """ep·tp·pp ranks, numbered with the first dimension of `rank_order` outermost."""

    ep: int
    tp: int
    pp: int
    rank_order: tuple[Dimension, ...] = DEFAULT_RANK_ORDER

    @property
    def world(self) -> int:
        """Ranks of one replica."""
        return self.ep * self.tp * self.pp

    def degree(self, dimension: Dimension) -> int:
        """Extent of one dimension."""
        return {"pp": self.pp, "ep": self.ep, "tp": self.tp}[dimension]

    def stride(self, dimension: Dimension) -> int:
        """Distance in rank between neighbours along a dimension."""
        inner = self.rank_order[self.rank_order.index(dimension) + 1 :]
        stride = 1
        for other in inner:
            stride *= self.degree(other)
        return stride

    def rank(self, coordinate: Coordinate) -> int:
        """Rank of a coordinate."""
        return sum(self.stride(dimension) * getattr(coordinate, dimension) for dimension in DIMENSIONS)

    def coordinate(self, rank: int) -> Coordinate:
        """Coordinate of a rank. Raises ValueError when there is no such rank."""
        if not 0 <= rank < self.world:
            raise ValueError(f"rank {rank} is outside 0..{self.world - 1}")
        pp, ep, tp = (rank // self.stride(dimension) % self.degree(dimension) for dimension in DIMENSIONS)
        return Coordinate(pp, ep, tp)

    def group(self, along: Sequence[Dimension], rank: int) -> tuple[int, ...]:
        """Ranks that differ from `rank` only along the given dimensions, itself included, ascending."""
        here = self.coordinate(rank)
        extents = [range(self.degree(dimension)) for dimension in along]
        points = (dict(zip(along, point, strict=True)) for point in product(*extents))
        return tuple(sorted(self.rank(here._replace(**point)) for point in points))

    def groups(self, along: Sequence[Dimension]) -> tuple[tuple[int, ...], ...]:
        """All groups along the given dimensions, by their first rank."""
        return tuple(sorted({self.group(along, rank) for rank in range(self.world)}))

    def crosses_nodes(self, dimension: Dimension, gpus_per_node: int) -> bool:
        """Whether some group along a dimension has ranks in two nodes of consecutive ranks.

        A group of n ranks at distance s lies in an aligned block of s·n ranks. A node boundary inside a block parts
        one of the block's groups at least, so no group is parted only where blocks fill nodes evenly.
        """
        extent = self.degree(dimension)
        if extent == 1 or self.world <= gpus_per_node:
            return False
        return gpus_per_node % (self.stride(dimension) * extent) != 0
