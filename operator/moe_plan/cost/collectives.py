"""How long ranks talk: latency and bandwidth of each tier of the network that a group spans.

alpha-beta model of Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
2005. A group is taken apart by tier: so many ranks in a node, so many nodes in a domain, so many domains; collectives
run tier by tier. Fanouts and messages may be columns of candidates; a fanout of 1 is a tier that the group does not span.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from moe_plan.columns import Column, ceil, log2, minimum, where
from moe_plan.cost.constants import Collectives, Engine
from moe_plan.hardware import Hardware, LinkTier, Scope
from moe_plan.layout import Dimension, Layout
from moe_plan.shares import ceil_div


@dataclass(frozen=True, slots=True)
class Span:
    """One tier of a group: `fanout` parties of it talk over one kind of link."""

    fanout: Column
    bandwidth_bytes_per_s: float
    """As on the data sheet, for each GPU, one way."""
    latency_s: float
    scope: Scope = "node"


Links = Sequence[Span]
"""The tiers of a group, narrowest first."""


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
    return group_spans(layout.world, layout.stride(dimension), layout.degree(dimension), hardware)


def group_spans(world: int, stride: int, extent: int, hardware: Hardware) -> tuple[Span, ...]:
    """The same for groups of `extent` ranks that lie `stride` apart."""
    found: list[Span] = []
    inside = 1
    for tier in hardware.links:
        widest = tier is hardware.links[-1]
        here = extent if widest else max(inside, ranks_together(world, stride, extent, tier.gpus))
        if here > inside:
            found.append(span_of(tier, ceil_div(here, inside)))
            inside = here
    return tuple(found)


def span_of(tier: LinkTier, fanout: Column) -> Span:
    """A tier's link between so many parties."""
    return Span(fanout, tier.bandwidth_bytes_per_s, tier.latency_s, tier.scope)


def all_reduce_s(message_bytes: Column, over: Links, engine: Engine, of: Collectives) -> Column:
    """Sum of [message_bytes] on each rank: within the narrowest tier, then its share across the next, hierarchically."""
    total_s, part_bytes = 0.0, message_bytes
    for span in over:
        time_s = library_all_reduce_s(part_bytes, span, of)
        if engine.all_reduce == "custom" and span.scope != "cluster":
            time_s = minimum(time_s, custom_all_reduce_s(part_bytes, span, of))
        total_s = total_s + where(span.fanout > 1, time_s, 0.0)
        part_bytes = part_bytes / span.fanout
    return total_s


def library_all_reduce_s(message_bytes: Column, span: Span, of: Collectives) -> Column:
    """NCCL and its like: the quicker of a ring, 2(n-1) latencies and 2(n-1)/n of the bytes, and a tree, 2 log2 n and twice."""
    n, sent_s = span.fanout, message_bytes / _bandwidth(span, of)
    ring_s = 2 * (n - 1) * span.latency_s + 2 * (n - 1) / n * sent_s
    tree_s = 2 * ceil(log2(n)) * span.latency_s + 2 * sent_s
    return minimum(ring_s, tree_s)


def custom_all_reduce_s(message_bytes: Column, span: Span, of: Collectives) -> Column:
    """Kernels that read their peers' memory: in one shot n-1 messages whole, or in two 2(n-1)/n of one and a barrier."""
    n, sent_s = span.fanout, message_bytes / (_bandwidth(span, of) * of.custom_bandwidth)
    start_s = span.latency_s * (of.custom_start + of.custom_rank * n)
    one_shot_s = (n - 1) * sent_s
    two_shot_s = span.latency_s * of.custom_second + 2 * (n - 1) / n * sent_s
    return start_s + minimum(one_shot_s, two_shot_s)


def distinct_targets(targets: Column, choices: int) -> Column:
    """Of so many equally likely targets, how many distinct ones `choices` reach: n(1 - (1 - 1/n)^k)."""
    return targets * (1 - (1 - 1 / targets) ** choices)


def all_to_all_s(tokens: Column, token_bytes: float, choices: int, over: Links, of: Collectives) -> Column:
    """Dispatch (or combine) of a rank's tokens to the ranks of their `choices` experts: directly or in stages."""
    if not over:
        return 0.0
    return minimum(
        direct_all_to_all_s(tokens, token_bytes, choices, over, of),
        staged_all_to_all_s(tokens, token_bytes, choices, over, of),
    )


def direct_all_to_all_s(tokens: Column, token_bytes: float, choices: int, over: Links, of: Collectives) -> Column:
    """Each token goes once to each expert that it chose, whatever lies between, as DeepEP's low-latency kernels send."""
    size: Column = 1
    for span in over:
        size = size * span.fanout
    total_s, inside = 0.0, 1
    for span in over:
        copies = choices * (span.fanout - 1) * inside / size
        sent_s = tokens * token_bytes * copies / (_bandwidth(span, of) * of.direct_bandwidth)
        total_s = total_s + where(span.fanout > 1, of.direct_messages * span.latency_s, 0.0) + sent_s
        inside = inside * span.fanout
    return total_s


def staged_all_to_all_s(tokens: Column, token_bytes: float, choices: int, over: Links, of: Collectives) -> Column:
    """A token crosses a tier once for each distinct party there that holds one of its experts, and is passed on inside.

    DeepSeek-V3, arXiv 2412.19437, section 3.2.2. Tiers follow one another.
    """
    size: Column = 1
    for span in over:
        size = size * span.fanout
    total_s, inside = 0.0, 1
    for span in over:
        copies = distinct_targets(size / inside, choices) * (span.fanout - 1) / span.fanout
        sent_s = tokens * token_bytes * copies / (_bandwidth(span, of) * of.staged_bandwidth)
        total_s = total_s + where(span.fanout > 1, of.staged_messages * span.latency_s + sent_s, 0.0)
        inside = inside * span.fanout
    return total_s


def send_s(message_bytes: Column, over: Links, of: Collectives) -> Column:
    """One message to the next stage, over the widest tier that the pipeline spans; 0 where it spans none."""
    time_s: Column = 0.0
    for span in over:
        time_s = where(span.fanout > 1, span.latency_s + message_bytes / _bandwidth(span, of), time_s)
    return time_s


def _bandwidth(span: Span, of: Collectives) -> float:
    return span.bandwidth_bytes_per_s * of.link_efficiency[span.scope]
