"""Which ranks of a replica share memory: ranks dealt over slots in order, seen from one of the slots."""

from dataclasses import dataclass
from functools import cached_property

from moe_plan.layout import Coordinate, Layout


@dataclass(frozen=True)
class Slots:
    """The slots of a replica, and the one that this process is in. One slot holds all ranks of a rehearsal."""

    layout: Layout
    ranks_per_slot: int
    here: int

    @classmethod
    def one(cls, layout: Layout) -> "Slots":
        """All ranks in one slot."""
        return cls(layout, layout.world, 0)

    @property
    def count(self) -> int:
        """Slots of the replica."""
        return -(-self.layout.world // self.ranks_per_slot)

    @property
    def ranks(self) -> range:
        """Ranks of this slot."""
        return range(self.here * self.ranks_per_slot, (self.here + 1) * self.ranks_per_slot)

    @property
    def parts_tensor_groups(self) -> bool:
        """Whether the tp ranks of some shard are in two slots."""
        return self.layout.crosses_nodes("tp", self.ranks_per_slot)

    @cached_property
    def of_shard(self) -> tuple[tuple[int, ...], ...]:
        """Slot of each shard's first tp rank, `[pp, ep]`."""
        layout = self.layout
        return tuple(
            tuple(layout.rank(Coordinate(pp, ep, 0)) // self.ranks_per_slot for ep in range(layout.ep))
            for pp in range(layout.pp)
        )

    def shards_here(self, pp: int) -> tuple[int, ...]:
        """Shards of a stage whose ranks are in this slot."""
        return tuple(ep for ep, slot in enumerate(self.of_shard[pp]) if slot == self.here)

    def others(self, pp: int) -> tuple[int, ...]:
        """The other slots that hold ranks of a stage which has ranks here; none for a stage that has not."""
        slots = set(self.of_shard[pp])
        return tuple(sorted(slots - {self.here})) if self.here in slots else ()
