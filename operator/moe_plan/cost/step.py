"""TTFT, TPOT and tokens a second of a layout: kernels and collectives of a layer, layers of a stage, stages of a step.

Requests arrive evenly, so a shard's steps decode its whole batch, and as often as requests end one of them computes a
new prompt besides. TTFT is the time of such a loaded step, TPOT the mean over all steps, and the throughput follows
from both by Little's law (Operations Research 9(3), 1961).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from moe_plan.cost.collectives import Span, all_reduce_s, all_to_all_s, send_s, spans
from moe_plan.cost.constants import constants
from moe_plan.cost.roofline import Load, head_s, layer_s
from moe_plan.hardware import Hardware
from moe_plan.kv import ELEMENT_BYTES, growing_bytes
from moe_plan.layout import Layout
from moe_plan.model import Layer, ModelShape, MoeFfn
from moe_plan.plan import ExpertMap, KvCache, Prediction, Stage, TimeParts
from moe_plan.shares import ceil_div, embedding_share, head_share, kinds_in, layer_kinds
from moe_plan.spec import Workload


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where time goes, as in `TimeParts`."""

    compute: float = 0.0
    memory: float = 0.0
    tp_all_reduce: float = 0.0
    dispatch: float = 0.0
    combine: float = 0.0
    pp_send: float = 0.0
    pp_bubble: float = 0.0
    overhead: float = 0.0

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return sum(self._parts())

    def __add__(self, other: Self) -> "Seconds":
        return Seconds(*(mine + theirs for mine, theirs in zip(self._parts(), other._parts(), strict=True)))

    def __mul__(self, factor: float) -> "Seconds":
        return Seconds(*(part * factor for part in self._parts()))

    def _parts(self) -> tuple[float, ...]:
        return (
            self.compute,
            self.memory,
            self.tp_all_reduce,
            self.dispatch,
            self.combine,
            self.pp_send,
            self.pp_bubble,
            self.overhead,
        )

    def as_plan(self) -> TimeParts:
        """The same for the plan; the parts add up to the total."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return TimeParts(**parts, total=self.total)


@dataclass(frozen=True, slots=True)
class Machine:
    """What stays the same over the steps of one prediction."""

    shape: ModelShape
    layout: Layout
    experts: ExpertMap
    stages: tuple[Stage, ...]
    hardware: Hardware
    cache_bytes: int
    """Bytes of one cached element."""
    tp: tuple[Span, ...]
    """Tiers that a tp group spans; likewise ep and pp."""
    ep: tuple[Span, ...]
    pp: tuple[Span, ...]


def predict(
    shape: ModelShape,
    layout: Layout,
    experts: ExpertMap,
    stages: Sequence[Stage],
    hardware: Hardware,
    workload: Workload,
    replicas: int,
    micro_batches: int,
    kv: KvCache,
) -> Prediction:
    """What a layout makes of a workload: concurrency dealt over replicas and shards, as far as the KV cache allows.

    TPOT includes the steps in which another request's prompt is computed. In mode training the figures are those of
    serving all the same. With no replicas the times are one replica's and the rate is 0.
    """
    machine = Machine(
        shape,
        layout,
        experts,
        tuple(stages),
        hardware,
        _cached_element_bytes(shape, layout, stages, kv),
        *(spans(layout, dimension, hardware) for dimension in ("tp", "ep", "pp")),
    )
    shards = max(1, replicas) * layout.ep
    batch = max(1, min(ceil_div(workload.concurrency, shards), kv.requests_per_shard))
    active = min(workload.concurrency, batch * shards)
    ttft, tpot = _times(machine, workload, batch, ceil_div(active, max(1, replicas)), micro_batches)
    tokens_per_s = active * workload.output_tokens / (ttft.total + (workload.output_tokens - 1) * tpot.total)
    served = tokens_per_s if replicas else 0.0
    return Prediction(
        ttft=ttft.total,
        ttft_parts=ttft.as_plan(),
        tpot=tpot.total,
        tpot_parts=tpot.as_plan(),
        tokens_per_s=served,
        tokens_per_s_per_gpu=served / (max(1, replicas) * layout.world),
        batch_per_shard=batch,
    )


def _times(
    machine: Machine, workload: Workload, batch: int, active: int, micro_batches: int
) -> tuple[Seconds, Seconds]:
    """TTFT and TPOT of `batch` requests on the fullest shard, `active` on all shards of the fullest replica.

    Each request takes as many steps as it has output tokens, the first of which computes its prompt. Over them the
    other batch - 1 requests each start once: a step carries a prompt with probability (batch - 1) / (output - 1), and
    several when that exceeds 1. Prompts and tokens so counted are exactly those of the batch.
    """
    output = workload.output_tokens
    prompts = max(1.0, batch / output)
    busy = min(machine.layout.ep, active)
    loaded = _step(machine, _load(workload, prompts, batch, active, busy), micro_batches)
    plain = _step(machine, _load(workload, 0.0, batch, active, busy), micro_batches)
    often = min(1.0, (batch - 1) / (output - 1)) if output > 1 else 0.0
    slower = max(loaded, plain, key=lambda step: step.total)
    return loaded, plain * (1 - often) + slower * often


def _load(workload: Workload, prompts: float, batch: int, active: int, busy: int) -> Load:
    """A step that computes `prompts` on each of the `busy` shards and a token of every other request."""
    all_prompts = min(float(active), prompts * busy)
    return Load(
        prompts=prompts,
        prompt_tokens=workload.input_tokens,
        decodes=batch - prompts,
        context=workload.input_tokens + workload.output_tokens / 2,
        stage_tokens=all_prompts * workload.input_tokens + active - all_prompts,
    )


def _step(machine: Machine, load: Load, micro_batches: int) -> Seconds:
    """One step of all stages.

    GPipe (arXiv 1811.06965, section 2.3): with m micro-batches the slowest stage works m times, and the others once
    each before or after it, which is the bubble. A step of fewer tokens than m is cut into as many as it has.
    """
    cuts = min(float(micro_batches), max(1.0, load.tokens))
    load = load.part(1 / cuts)
    times = _stage_times(machine, load)
    slowest = max(times, key=lambda stage: stage.total)
    bubble = sum(stage.total for stage in times) - slowest.total
    sends = len(times) - 1
    hidden_bytes = load.tokens * machine.shape.hidden * ELEMENT_BYTES[machine.shape.formats.compute]
    between = Seconds(
        pp_send=sends * send_s(hidden_bytes, machine.pp) if sends else 0.0,
        pp_bubble=bubble,
        overhead=constants().step_overhead_s,
    )
    return slowest * cuts + between


def _stage_times(machine: Machine, load: Load) -> tuple[Seconds, ...]:
    """Time of one micro-batch on each stage; stages of the same layers are computed once."""
    layers = [_layer(machine, layer, load) for layer in layer_kinds(machine.shape)]
    known: dict[tuple[object, ...], Seconds] = {}
    times = []
    for stage in machine.stages:
        counts = kinds_in(machine.shape, stage)
        key = (tuple(counts.items()), stage.embedding, stage.head)
        if key not in known:
            work = sum((layers[kind] * count for kind, count in counts.items()), Seconds())
            known[key] = work + _head(machine, stage, load)
        times.append(known[key])
    return tuple(times)


def _layer(machine: Machine, layer: Layer, load: Load) -> Seconds:
    """One layer of one micro-batch: kernels, an all-reduce after attention and after the FFN, dispatch and combine."""
    shape, element = machine.shape, ELEMENT_BYTES[machine.shape.formats.compute]
    kernels = layer_s(layer, shape, machine.experts, machine.layout.tp, load, machine.cache_bytes, machine.hardware)
    reduce_s = all_reduce_s(load.tokens * shape.hidden * element, machine.tp)
    exchange_s, own_s = 0.0, constants().dense_overhead_s
    if isinstance(layer.ffn, MoeFfn):
        row_bytes = (layer.ffn.expert_hidden or shape.hidden) * element
        exchange_s = all_to_all_s(load.tokens, row_bytes, layer.ffn.top_k, machine.ep)
        own_s = constants().moe_overhead_s
    return Seconds(
        compute=kernels.compute_s,
        memory=kernels.memory_s,
        tp_all_reduce=2 * reduce_s,
        dispatch=exchange_s,
        combine=exchange_s,
        overhead=constants().attention_overhead_s + own_s,
    )


def _head(machine: Machine, stage: Stage, load: Load) -> Seconds:
    """Embedding and head of a stage; a vocabulary-parallel embedding ends in an all-reduce."""
    shape, tp = machine.shape, machine.layout.tp
    hidden_bytes = load.tokens * shape.hidden * ELEMENT_BYTES[shape.formats.compute]
    reduce_s = all_reduce_s(hidden_bytes, machine.tp) if stage.embedding else 0.0
    if not stage.head:
        return Seconds(tp_all_reduce=reduce_s)
    kernel = head_s(head_share(shape, stage, tp) or embedding_share(shape, tp), shape, load, machine.hardware)
    return Seconds(compute=kernel.compute_s, memory=kernel.memory_s, tp_all_reduce=reduce_s)


def _cached_element_bytes(shape: ModelShape, layout: Layout, stages: Sequence[Stage], kv: KvCache) -> int:
    """Bytes of one cached element, from what a token takes; the compute format's where no layer's cache grows."""
    kinds = layer_kinds(shape)
    elements = max(
        sum(
            growing_bytes(kinds[kind].attention, layout.tp, 1) * count for kind, count in kinds_in(shape, stage).items()
        )
        for stage in stages
    )
    return max(1, round(kv.bytes_per_token / elements)) if elements else ELEMENT_BYTES[shape.formats.compute]
