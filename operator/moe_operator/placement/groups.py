"""Which slots talk with which: the groups of a layout, seen slot by slot."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from moe_plan.layout import Dimension, Layout
from moe_plan.plan import Plan

Kind = Literal["tp", "ep", "pp", "replica"]
KINDS: tuple[Kind, ...] = ("tp", "ep", "pp", "replica")
"""Those that talk most first."""


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks of one replica that talk, by slot. Groups with the same share of the same slots are one."""

    kind: Kind
    slots: tuple[int, ...]
    ranks: tuple[int, ...]
    """Ranks of the group in each of `slots`."""
    numbers: tuple[int, ...]
    """Which groups of the kind these are, counted by first rank."""

    pairs: int
    """Pairs of ranks that lie in different slots, in one of the groups."""


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """The groups of a replica that span slots. Compared by identity, so that what follows from one is cheaply kept."""

    slots: int
    order: tuple[int, ...]
    """All slots, those that talk most next to each other."""
    breaks: tuple[int, ...]
    """Positions in `order` at which a stage begins."""
    whole: tuple[Group, ...]
    """Groups that a level may be required of."""
    talking: tuple[Group, ...]
    """Groups all of whose pairs of ranks talk: as `whole`, but for pp the pairs of neighbouring stages."""


def apart(counts: Iterable[int]) -> int:
    """Pairs of things in different heaps, from the size of each heap."""
    sizes = list(counts)
    return (sum(sizes) ** 2 - sum(size * size for size in sizes)) // 2


def traffic(plan: Plan) -> Traffic:
    """The groups of a plan's replica."""
    degrees = plan.degrees
    return _traffic(Layout(degrees.ep, degrees.tp, degrees.pp, plan.rank_order), plan.slots, plan.ranks_per_slot)


@lru_cache(maxsize=256)
def _traffic(layout: Layout, slots: int, ranks_per_slot: int) -> Traffic:
    found: dict[tuple[Kind, tuple[tuple[int, int], ...]], list[int]] = {}
    pairs: dict[tuple[Kind, tuple[tuple[int, int], ...]], list[int]] = {}
    dimensions: tuple[Dimension, ...] = ("tp", "ep", "pp")
    for dimension in dimensions:
        for number, ranks in enumerate(_groups(layout, dimension)):
            members = [rank // ranks_per_slot for rank in ranks]
            found.setdefault((dimension, _shares(members)), []).append(number)
            links: Iterable[list[int]] = map(list, pairwise(members)) if dimension == "pp" else [members]
            for link in links:
                pairs.setdefault((dimension, _shares(link)), []).append(number)
    everything = ("replica", tuple((slot, ranks_per_slot) for slot in range(slots)))
    found[everything] = pairs[everything] = [0]  # type: ignore[index]  # a literal's type is lost in the tuple
    first = {slot: layout.coordinate(slot * ranks_per_slot) for slot in range(slots)}
    order = sorted(range(slots), key=lambda slot: first[slot])
    return Traffic(
        slots=slots,
        order=tuple(order),
        breaks=tuple(i for i in range(slots) if i == 0 or first[order[i]].pp != first[order[i - 1]].pp),
        whole=_spanning(found),
        talking=_spanning(pairs),
    )


def _groups(layout: Layout, dimension: Dimension) -> Iterator[range]:
    """Groups along one dimension, by first rank."""
    stride, extent = layout.stride(dimension), layout.degree(dimension)
    firsts = (rank for rank in range(layout.world) if rank // stride % extent == 0)
    return (range(first, first + stride * extent, stride) for first in firsts)


def _shares(members: Iterable[int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(Counter(members).items()))


def _apart(shares: Iterable[tuple[int, int]]) -> int:
    return apart(ranks for _, ranks in shares)


def _spanning(found: dict[tuple[Kind, tuple[tuple[int, int], ...]], list[int]]) -> tuple[Group, ...]:
    return tuple(
        Group(kind, tuple(slot for slot, _ in shares), tuple(n for _, n in shares), tuple(numbers), _apart(shares))
        for (kind, shares), numbers in found.items()
        if len(shares) > 1
    )
