"""The layout algebra as rules: each takes a degree or a layout and yields what is wrong with it.

A rule's message has the field, the numbers and the nearest value that satisfies that rule; `nearest.py` finds the
layouts that satisfy all of them. No rule loops over ranks, so that absurd degrees are refused as quickly as others.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from moe_plan.errors import Violation
from moe_plan.layout import Layout
from moe_plan.plan import StageMemory
from moe_plan.subject import Subject, Width
from moe_plan.units import format_bytes

MAX_WORLD = 16_384
"""Ranks of the largest replica that is planned; the largest published serving units have hundreds (DeepSeek-V3: 320)."""

MAX_MAP = 2**17
"""Physical experts of all layers together whose map is written into a plan: 0.6 MB, of a ConfigMap's 1 MiB."""

_EP = "spec.parallelism.ep"
_TP = "spec.parallelism.tp"
_PP = "spec.parallelism.pp"
_REDUNDANT = "spec.parallelism.redundantExperts"

_PARTS = (
    ("attention", "attention weights"),
    ("experts", "experts"),
    ("redundant_experts", "redundant experts"),
    ("shared_experts", "shared experts"),
    ("dense_ffn", "dense FFN"),
    ("embedding", "embedding"),
    ("head", "head"),
    ("other_weights", "norms and routers"),
    ("activations", "activations of maxBatchTokens"),
    ("communication", "communication buffers"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer state"),
    ("kv_cache", "KV cache of one request of maxModelLength"),
)


def expert_rules(subject: Subject, ep: int, redundant: int) -> Iterator[Violation]:
    """Physical experts are dealt evenly over ep, and copies of one expert never share a rank."""
    logical, physical = subject.experts, subject.experts + redundant
    most = logical * (ep - 1)
    if redundant > most:
        yield Violation(
            _REDUNDANT,
            "TooManyRedundantExperts",
            f"{redundant:,} redundant experts of {logical} at ep {ep} would put two copies of an expert on one rank",
            f"set redundantExperts to at most {most:,}",
        )
    elif physical < ep:
        lack = "rank" if ep - physical == 1 else "ranks"
        yield Violation(
            _EP,
            "FewerExpertsThanRanks",
            f"ep {ep:,} over {_experts(logical, redundant)} leaves {ep - physical:,} {lack} without an expert",
            _expert_remedy(logical, redundant, ep),
        )
    elif physical % ep:
        yield Violation(
            _EP,
            "ExpertsNotDivisible",
            f"{_experts(logical, redundant)} cannot be dealt evenly over ep {ep:,} ({physical % ep:,} left over)",
            _expert_remedy(logical, redundant, ep),
        )
    elif not map_fits(subject, physical):
        yield Violation(
            _REDUNDANT,
            "ExpertMapTooLarge",
            f"the map of {physical:,} physical experts by measured loads, layer by layer, is larger than a ConfigMap holds",
            "lower redundantExperts or ep, or plan without the loads",
        )


def map_fits(subject: Subject, physical: int) -> bool:
    """Whether a plan can hold the map of so many physical experts; without loads it holds a rule."""
    return subject.dealer is None or physical * len(subject.dealer.loads.layers) <= MAX_MAP


def tensor_rules(subject: Subject, tp: int) -> Iterator[Violation]:
    """Attention heads, KV heads, FFN widths and quantisation blocks split over tp."""
    found = [*_head_rules(subject, tp), *_width_rules(subject.widths, tp)]
    if found:
        remedy = f"set tp to {_either(around(_tp_in_node(subject), tp))}"
        yield from (Violation(_TP, code, message, remedy) for code, message in found)


def stage_rules(subject: Subject, pp: int) -> Iterator[Violation]:
    """Every stage has a layer."""
    layers = len(subject.shape.layers)
    if pp > layers:
        yield Violation(
            _PP,
            "MoreStagesThanLayers",
            f"pp {pp:,} leaves stages without a layer: the model has {layers} layers",
            f"set pp to at most {layers}",
        )


def world_rules(subject: Subject, layout: Layout) -> Iterator[Violation]:
    """A replica is a part of one node or fills whole nodes, holds no tp group that spans nodes, and is within gpus."""
    per_node, world = subject.hardware.gpus_per_node, layout.world
    parallelism = subject.spec.parallelism
    if world > MAX_WORLD:
        yield Violation(
            "spec.parallelism",
            "TooManyRanks",
            f"{_product(layout)} is {world:,} ranks a replica; at most {MAX_WORLD:,} are planned",
        )
        return
    if world > per_node and world % per_node:
        yield Violation(
            "spec.parallelism",
            "NodesNotFilled",
            f"{_product(layout)} is {world:,} ranks, which fill {world / per_node:.3g} nodes of {per_node} GPUs; "
            "a replica is smaller than a node or fills whole nodes",
        )
    if not parallelism.allow_cross_node_tensor_parallel and layout.crosses_nodes("tp", per_node):
        yield _tp_crosses_nodes(layout, per_node)
    if parallelism.gpus is not None and world > parallelism.gpus:
        yield Violation(
            "spec.parallelism.gpus",
            "MoreRanksThanGpus",
            f"{_product(layout)} needs {world:,} GPUs, but gpus is {parallelism.gpus:,}",
        )


def request_rules(subject: Subject) -> Iterator[Violation]:
    """Requests fit the model's positions, and micro-batches the batch. The same for every layout."""
    spec, positions, length = subject.spec, subject.shape.max_positions, subject.limits.max_model_length
    if length > positions:
        given = spec.serving.max_model_length is not None
        field = "spec.serving.maxModelLength" if given else "spec.workload"
        name = "maxModelLength" if given else "inputTokens + outputTokens"
        message = f"{name} is {length:,} tokens, but {subject.shape.name} has {positions:,} positions"
        yield Violation(field, "LongerThanModel", message, f"set {name} to at most {positions:,}")
    micro_batches, batch = spec.parallelism.micro_batches, subject.limits.max_batch_tokens
    if isinstance(micro_batches, int) and micro_batches > batch:
        yield Violation(
            "spec.parallelism.microBatches",
            "EmptyMicroBatches",
            f"{micro_batches:,} micro-batches cannot share a step of at most {batch:,} tokens (maxBatchTokens)",
            f"set microBatches to at most {batch:,}, or to auto",
        )


def memory_rules(subject: Subject, memory: Iterable[StageMemory]) -> Iterator[Violation]:
    """The fullest stage fits into the GPU's memory less the reserve."""
    usable = subject.hardware.usable_bytes
    over = [stage for stage in memory if stage.total > usable]
    if not over:
        return
    worst = max(over, key=lambda stage: stage.total)
    parts = sorted(((getattr(worst, part), name) for part, name in _PARTS), reverse=True)
    largest = ", ".join(f"{name} {format_bytes(size)}" for size, name in parts[:3] if size)
    others = f"; {len(over) - 1} other stages are too full as well" if len(over) > 1 else ""
    hardware = subject.hardware
    yield Violation(
        "spec.parallelism",
        "MemoryExceeded",
        f"a rank of stage {worst.pp} needs {format_bytes(worst.total)}, {format_bytes(worst.total - usable)} more than "
        f"the {format_bytes(usable)} usable of a {hardware.name}'s {format_bytes(hardware.memory_bytes)} (memoryReserve "
        f"{100 * hardware.memory_reserve:g}%): {largest}{others}",
        _memory_remedy(worst, usable, subject.limits.max_model_length),
    )


def valid_tp(subject: Subject) -> tuple[int, ...]:
    """Every tp that splits the model, ascending."""
    common = math.gcd(*subject.heads)
    return tuple(tp for tp in divisors(common) if not _head_rules(subject, tp) and not _width_rules(subject.widths, tp))


def divisors(number: int) -> tuple[int, ...]:
    """Divisors, ascending."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return (*small, *(number // d for d in reversed(small) if d * d != number))


def around(values: Sequence[int], value: int) -> tuple[int, ...]:
    """The nearest of ascending values below and above one that is not among them."""
    below, above = bisect_left(values, value), bisect_right(values, value)
    return (*values[max(0, below - 1) : below], *values[above : above + 1])


def _tp_in_node(subject: Subject) -> tuple[int, ...]:
    """Every tp that splits the model and, unless it may span nodes, a node as well."""
    if subject.spec.parallelism.allow_cross_node_tensor_parallel:
        return valid_tp(subject)
    return tuple(tp for tp in valid_tp(subject) if subject.hardware.gpus_per_node % tp == 0)


def _head_rules(subject: Subject, tp: int) -> list[tuple[str, str]]:
    heads = [
        ("HeadsNotDivisible", f"{count} attention heads cannot be split over tp {tp:,}")
        for count in subject.heads
        if count % tp
    ]
    kv_heads = [
        ("KvHeadsNotDivisible", f"{count} KV heads can be neither split over nor replicated evenly on tp {tp:,}")
        for count in subject.kv_heads
        if count % tp and tp % count
    ]
    return heads + kv_heads


def _width_rules(widths: Iterable[Width], tp: int) -> list[tuple[str, str]]:
    found = []
    for width in widths:
        if width.width % tp:
            found.append(
                ("WidthNotDivisible", f"the {width.name}'s width {width.width} cannot be split over tp {tp:,}")
            )
        elif width.block > 1 and math.ceil(width.blocks / tp) * (tp - 1) >= width.blocks:
            found.append(
                (
                    "RankWithoutBlock",
                    f"the {width.blocks} {width.format} blocks of {width.block} in the {width.name}'s width {width.width} "
                    f"are dealt whole, {math.ceil(width.blocks / tp)} a rank, which leaves a rank of tp {tp:,} without any",
                )
            )
    return found


def _tp_crosses_nodes(layout: Layout, per_node: int) -> Violation:
    order = ", ".join(layout.rank_order)
    if layout.rank_order[-1] == "tp":
        fitting = _either(around(divisors(per_node), layout.tp))
        message = f"tp {layout.tp} does not divide the {per_node} GPUs of a node, so a tp group would span nodes"
        remedy = f"set tp to {fitting}"
    else:
        distance = layout.stride("tp")
        message = f"with rankOrder [{order}] the {layout.tp} ranks of a tp group lie {distance:,} ranks apart and span nodes of {per_node} GPUs"
        remedy = "put tp last in rankOrder"
    return Violation(
        _TP, "TensorParallelCrossesNodes", message, f"{remedy}, or set allowCrossNodeTensorParallel to true"
    )


def _expert_remedy(logical: int, redundant: int, ep: int) -> str:
    physical = logical + redundant
    by_ep = f"ep to {_either(around(divisors(physical), ep))}"
    if ep > MAX_WORLD:
        return f"set {by_ep}"
    needed = math.ceil(physical / ep) * ep - logical
    return f"set redundantExperts to {needed:,}, or {by_ep}"


def _memory_remedy(worst: StageMemory, usable: float, length: int) -> str:
    """What helps without another layout: shorter requests, where they alone are too much."""
    free = usable - (worst.total - worst.kv_cache)
    if worst.kv_cache <= 0 or free <= 0:
        return ""
    return f"set spec.serving.maxModelLength to about {math.floor(free / worst.kv_cache * length):,} tokens at most"


def _experts(logical: int, redundant: int) -> str:
    return f"{logical} experts" + (f" and {redundant:,} redundant ones" if redundant else "")


def _product(layout: Layout) -> str:
    return f"ep {layout.ep:,} · tp {layout.tp:,} · pp {layout.pp:,}"


def _either(values: Sequence[int]) -> str:
    return " or ".join(str(value) for value in values)
