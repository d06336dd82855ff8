"""Pipeline stages: consecutive layers, dealt so that the fullest stage is as light as it can be, and then evenly."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from moe_plan.columns import Column
from moe_plan.model import ModelShape
from moe_plan.plan import Stage
from moe_plan.shares import layer_kinds, layer_share
from moe_plan.subject import Subject


def balance(costs: Sequence[int], stages: int) -> tuple[int, ...]:
    """Layers of each stage, one at least, so that the largest sum of costs is least.

    Where several ways are as light, each boundary lies as near as it can to an even share of what is left. Costs are
    of the layers in order and not negative; stages is 1 to len(costs).
    """
    assert 1 <= stages <= len(costs)
    sums = (0, *accumulate(costs))
    bottleneck = _lightest_bottleneck(sums, stages)
    earliest = _earliest_ends(sums, stages, bottleneck)
    ends = [0]
    for stage in range(stages):
        start = ends[-1]
        latest = min(_reach(sums, start, bottleneck), len(costs) - (stages - stage - 1))
        share = sums[start] + (sums[-1] - sums[start]) / (stages - stage)
        lowest = max(earliest[stage], start + 1)
        ends.append(lowest + _nearest(sums[lowest : latest + 1], share))
    return tuple(end - start for start, end in pairwise(ends))


def layer_costs(shape: ModelShape, tp: Column, per_rank: Column) -> tuple[Column, ...]:
    """Bytes of weights on one rank for a layer of each of the model's kinds, with `per_rank` physical experts."""
    experts, linear, other = (
        number_format.bytes_per_param
        for number_format in (shape.formats.experts, shape.formats.linear, shape.formats.other)
    )
    shares = (layer_share(kind, shape.formats, tp) for kind in layer_kinds(shape))
    return tuple(
        share.expert * per_rank * experts
        + (share.attention + share.shared_experts + share.dense_ffn) * linear
        + share.other * other
        for share in shares
    )


def stage_costs(subject: Subject, tp: int, per_rank: float) -> tuple[int, ...]:
    """Bytes of weights on one rank for each layer, the embedding with the first and the head with the last.

    Bytes, since a decode step reads a stage's weights and the fullest stage leaves the least room for the KV cache.
    """
    shape = subject.shape
    by_kind = layer_costs(shape, tp, per_rank)
    costs = [by_kind[kind] for kind in subject.kinds]
    embedding, head = end_costs(shape, tp)
    costs[0] += embedding
    costs[-1] += head
    return tuple(math.ceil(cost) for cost in costs)


def end_costs(shape: ModelShape, tp: Column) -> tuple[Column, Column]:
    """Bytes of the embedding and of the head on one rank, a head that shares the embedding's weights included."""
    width = shape.formats.other.bytes_per_param / tp
    return shape.embedding_params * width, (shape.head_params or shape.embedding_params) * width


def make_stages(counts: Sequence[int]) -> tuple[Stage, ...]:
    """Stages of the given numbers of layers."""
    firsts = (0, *accumulate(counts))
    last = len(counts) - 1
    return tuple(
        Stage(pp=pp, first_layer=firsts[pp], layers=layers, embedding=pp == 0, head=pp == last)
        for pp, layers in enumerate(counts)
    )


def _lightest_bottleneck(sums: Sequence[int], stages: int) -> int:
    """Least bound under which every stage's sum stays, by halving between the mean and the whole."""
    low = max(-(-sums[-1] // stages), *(after - before for before, after in pairwise(sums)))
    high = sums[-1]
    while low < high:
        middle = (low + high) // 2
        if _stages_needed(sums, middle, stages) <= stages:
            high = middle
        else:
            low = middle + 1
    return low


def _stages_needed(sums: Sequence[int], bottleneck: int, limit: int) -> int:
    """Stages that greedy filling takes; it stops counting beyond the limit."""
    end, needed, layers = 0, 0, len(sums) - 1
    while end < layers and needed <= limit:
        end = _reach(sums, end, bottleneck)
        needed += 1
    return needed


def _earliest_ends(sums: Sequence[int], stages: int, bottleneck: int) -> list[int]:
    """For each stage the least end from which the later stages can still hold the rest under the bottleneck."""
    ends = [len(sums) - 1]
    for _ in range(stages - 1):
        ends.append(max(0, min(bisect_left(sums, sums[ends[-1]] - bottleneck), ends[-1] - 1)))
    return ends[::-1]


def _reach(sums: Sequence[int], start: int, bottleneck: int) -> int:
    """The furthest end of a stage that starts here."""
    return bisect_right(sums, sums[start] + bottleneck) - 1


def _nearest(ascending: Sequence[int], value: float) -> int:
    """Index of the number nearest to a value, the first where several are."""
    distances = [abs(number - value) for number in ascending]
    return distances.index(min(distances))
