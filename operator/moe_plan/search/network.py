"""Which links the groups of many layouts span, and which rank orders make a difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_plan.hardware import Hardware
from moe_plan.layout import DIMENSIONS, Dimension
from moe_plan.search.arrays import Bools, Ints

Order = tuple[Dimension, ...]
Parted = Literal["never", "allowed"]
"""Whether tp groups may span nodes."""


def strides(order: Order, degrees: dict[Dimension, Ints]) -> dict[Dimension, Ints]:
    """Distance in rank between neighbours along each dimension, as `Layout.stride`."""
    found: dict[Dimension, Ints] = {}
    stride = np.ones_like(degrees["tp"])
    for dimension in reversed(order):
        found[dimension] = stride
        stride = stride * degrees[dimension]
    return found


def tp_is_parted(order: Order, degrees: dict[Dimension, Ints], per_node: int) -> Bools:
    """Whether some tp group spans nodes, as `Layout.crosses_nodes`."""
    world = degrees["ep"] * degrees["tp"] * degrees["pp"]
    block = strides(order, degrees)["tp"] * degrees["tp"]
    return np.asarray((degrees["tp"] > 1) & (world > per_node) & (per_node % block != 0))


def fanouts(order: Order, degrees: dict[Dimension, Ints], hardware: Hardware) -> dict[Dimension, Ints]:
    """Parties that the groups along each dimension have on each tier, `[tiers, candidates]`, 1 where none talk there.

    As `cost.collectives.spans`, which names only tiers on which somebody talks.
    """
    world = degrees["ep"] * degrees["tp"] * degrees["pp"]
    found = {}
    for dimension, stride in strides(order, degrees).items():
        inside = np.ones_like(world)
        tiers = []
        for tier in hardware.links:
            here = degrees[dimension]
            if tier is not hardware.links[-1]:
                here = np.maximum(inside, together(world, stride, degrees[dimension], tier.gpus))
            tiers.append(-(-here // inside))
            inside = here
        found[dimension] = np.stack(tiers)
    return found


def together(world: Ints, stride: Ints, extent: Ints, block: int) -> Ints:
    """Members of a group that share a block of ranks, for the rank that has the fewest beside it.

    As `cost.collectives.ranks_together`, in closed form: groups begin at multiples of their span, which lie at the
    multiples of g = gcd(span, block) behind a block's edge, at all of them if the world has block / g spans. The rank
    with the fewest beside it is at the edge of its group, x ranks from the edge of its block, with x // stride others
    between; over all multiples of g the least x is (-stride) mod g.
    """
    span = stride * extent
    g = np.gcd(span, block)
    found = np.where(world <= block, extent, np.minimum(extent, -stride % g // stride + 1))
    spans = world // span
    few = (world > block) & (spans < block // g)
    if few.any():
        found[few] = _together_of_few(span[few], stride[few], extent[few], spans[few], block)
    return found


def _together_of_few(span: Ints, stride: Ints, extent: Ints, spans: Ints, block: int) -> Ints:
    """The same where a domain's edges meet few spans, which are looked at one by one."""
    found = extent.copy()
    for number in range(int(spans.max())):
        first = np.minimum(number, spans - 1) * span
        for start in (first, first + stride - 1):
            last = start + span - stride
            found = np.minimum(found, (block - 1 - start % block) // stride + 1)
            found = np.minimum(found, last % block // stride + 1)
    return found


@dataclass(frozen=True, slots=True)
class Ordered:
    """Candidates in rank orders, `[pairs]` each."""

    candidate: Ints
    order: Ints
    """Index into the rank orders."""
    fanouts: dict[Dimension, Ints]
    """As `fanouts` gives, `[tiers, pairs]`."""


def in_orders(orders: Sequence[Order], degrees: dict[Dimension, Ints], hardware: Hardware, parted: Parted) -> Ordered:
    """Each candidate in each rank order that suits it.

    An order suits a candidate unless it parts tp groups that must not be parted, or gives the fanouts of an order
    before it: a prediction depends on the order only through the fanouts, and memory not at all.
    """
    over = [fanouts(order, degrees, hardware) for order in orders]
    keys = [np.concatenate([each[dimension] for dimension in DIMENSIONS]) for each in over]
    suits = np.ones((len(orders), len(degrees["tp"])), dtype=np.bool_)
    for number, order in enumerate(orders):
        if parted == "never":
            suits[number] = ~tp_is_parted(order, degrees, hardware.gpus_per_node)
        for before in range(number):
            suits[number] &= ~suits[before] | (keys[number] != keys[before]).any(axis=0)
    candidate, chosen = np.nonzero(suits.T)
    found = {
        dimension: np.stack([each[dimension] for each in over])[chosen, :, candidate].T for dimension in DIMENSIONS
    }
    return Ordered(candidate, chosen, found)
