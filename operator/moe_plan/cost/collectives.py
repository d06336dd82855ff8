"""How long ranks talk: latency and bandwidth of each tier of the network that a group spans.

alpha-beta model of Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
2005. A group is taken apart by tier: so many ranks in a node, so many nodes in a domain, so many domains; collectives
run tier by tier.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from moe_plan.cost.constants import constants
from moe_plan.hardware import Hardware, LinkTier
from moe_plan.layout import Dimension, Layout
from moe_plan.shares import ceil_div


@dataclass(frozen=True, slots=True)
class Span:
    """One tier of a group: `fanout` parties of it talk over one kind of link."""

    fanout: int
    bandwidth_bytes_per_s: float
    """What large messages reach, for each GPU, one way."""
    latency_s: float


def ranks_together(world: int, stride: int, extent: int, block: int) -> int:
    """Members of a group that share a block of neighbouring ranks, for the rank that has the fewest beside it.

    Groups are ranks `stride` apart, `extent` of them; blocks (a node's ranks, a domain's) are `block` long and
    aligned. At least 1, the rank itself.
    """
    if world <= block:
        return extent
    span = stride * extent
    if block % span == 0:
        return extent
    if span % block == 0 and (block % stride == 0 or stride % block == 0):
        return max(1, block // stride)
    return _ranks_together(world, stride, extent, block)


@lru_cache(maxsize=1024)
def _ranks_together(world: int, stride: int, extent: int, block: int) -> int:
    span = stride * extent
    fewest = extent
    for first in range(0, world, span):
        for offset in {0, stride - 1}:
            blocks = [(first + offset + member * stride) // block for member in range(extent)]
            fewest = min(fewest, blocks.count(blocks[0]), blocks.count(blocks[-1]))
    return fewest


def spans(layout: Layout, dimension: Dimension, hardware: Hardware) -> tuple[Span, ...]:
    """The tiers that the groups along a dimension span, narrowest first; none for a group of one."""
    extent, stride = layout.degree(dimension), layout.stride(dimension)
    found: list[Span] = []
    inside = 1
    for tier in hardware.links:
        widest = tier is hardware.links[-1]
        here = extent if widest else max(inside, ranks_together(layout.world, stride, extent, tier.gpus))
        if here > inside:
            found.append(_span(tier, ceil_div(here, inside)))
            inside = here
    return tuple(found)


def _span(tier: LinkTier, fanout: int) -> Span:
    return Span(fanout, tier.bandwidth_bytes_per_s * constants().link_efficiency[tier.scope], tier.latency_s)


def all_reduce_s(message_bytes: float, over: tuple[Span, ...]) -> float:
    """Sum of [message_bytes] on each rank: within the narrowest tier, then its share across the next, hierarchically.

    Each tier takes the quicker of a ring, 2(n-1) latencies and 2(n-1)/n of the bytes, and a tree, 2 log2 n latencies
    and twice the bytes.
    """
    total_s, part_bytes = 0.0, message_bytes
    for span in over:
        n = span.fanout
        ring_s = 2 * (n - 1) * span.latency_s + 2 * (n - 1) / n * part_bytes / span.bandwidth_bytes_per_s
        tree_s = 2 * math.ceil(math.log2(n)) * span.latency_s + 2 * part_bytes / span.bandwidth_bytes_per_s
        total_s += min(ring_s, tree_s)
        part_bytes /= n
    return total_s


def distinct_targets(targets: float, choices: int) -> float:
    """Of so many equally likely targets, how many distinct ones `choices` reach: n(1 - (1 - 1/n)^k)."""
    return float(targets * (1 - (1 - 1 / targets) ** choices))


def all_to_all_s(tokens: float, token_bytes: float, choices: int, over: tuple[Span, ...]) -> float:
    """Dispatch (or combine) of a rank's tokens to the ranks of their `choices` experts, hierarchically.

    A token crosses a tier once for each distinct party there that holds one of its experts, and is passed on inside
    (DeepSeek-V3, arXiv 2412.19437, section 3.2.2). Tiers follow one another.
    """
    total_s, inside = 0.0, 1
    size = math.prod(span.fanout for span in over)
    for span in over:
        copies = distinct_targets(size / inside, choices) * (span.fanout - 1) / span.fanout
        sent_bytes = tokens * token_bytes * copies
        total_s += constants().all_to_all_messages * span.latency_s + sent_bytes / span.bandwidth_bytes_per_s
        inside *= span.fanout
    return total_s


def send_s(message_bytes: float, over: tuple[Span, ...]) -> float:
    """One message to the next stage, over the widest tier that the pipeline spans."""
    if not over:
        return 0.0
    return over[-1].latency_s + message_bytes / over[-1].bandwidth_bytes_per_s
