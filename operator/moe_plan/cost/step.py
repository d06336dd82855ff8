"""The time of one step: kernels and collectives of a layer, layers of a stage, stages of a pipeline.

A `Case` holds one layout under one load, or columns of candidates: the formulas are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from moe_plan.columns import Column, holds_everywhere, is_single, maximum, minimum, row_of, stacked, where
from moe_plan.cost.collectives import Links, all_reduce_s, all_to_all_s, send_s
from moe_plan.cost.kernels import Experts, KernelTime, Load, Setting, head_s, layer_s
from moe_plan.kv import ELEMENT_BYTES
from moe_plan.model import Layer, MoeFfn
from moe_plan.plan import TimeParts
from moe_plan.shares import embedding_share, layer_counts, layer_kinds


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where time goes, as in `TimeParts`. A part that is the number 0 does not become a column of zeros in a sum."""

    compute: Column = 0.0
    memory: Column = 0.0
    tp_all_reduce: Column = 0.0
    dispatch: Column = 0.0
    combine: Column = 0.0
    pp_send: Column = 0.0
    pp_bubble: Column = 0.0
    overhead: Column = 0.0
    queueing: Column = 0.0

    @property
    def total(self) -> Column:
        """Sum of the parts."""
        total: Column = 0.0
        for part in self.parts():
            if type(part) is not float or part:
                total = total + part if type(total) is not float or total else part
        return total

    def __add__(self, other: "Seconds") -> "Seconds":
        pairs = zip(self.parts(), other.parts(), strict=True)
        return Seconds(
            *[(a + b if type(a) is not float or a else b) if type(b) is not float or b else a for a, b in pairs]
        )

    def __mul__(self, factor: Column) -> "Seconds":
        if is_single(factor) and factor == 1:
            return self
        return Seconds(*[part * factor if type(part) is not float or part else part for part in self.parts()])

    def parts(self) -> tuple[Column, ...]:
        """The parts in the order of the fields."""
        return (
            self.compute,
            self.memory,
            self.tp_all_reduce,
            self.dispatch,
            self.combine,
            self.pp_send,
            self.pp_bubble,
            self.overhead,
            self.queueing,
        )

    def slower(self, other: "Seconds") -> "Seconds":
        """The one that takes longer, candidate by candidate."""
        longer = self.total > other.total
        if holds_everywhere(longer):
            return self
        pairs = zip(self.parts(), other.parts(), strict=True)
        return Seconds(*(mine if mine is theirs else where(longer, mine, theirs) for mine, theirs in pairs))

    def as_plan(self) -> TimeParts:
        """The same for the plan; the parts add up to the total."""
        parts = {field.name: float(getattr(self, field.name)) for field in fields(self)}
        return TimeParts(**parts, total=float(self.total))


@dataclass(frozen=True, slots=True)
class StageClass:
    """Stages that hold the same: layers of each kind, embedding and head 1 or 0."""

    counts: tuple[Column, ...]
    """By index into `layer_kinds`."""
    embedding: Column
    head: Column

    def where(self, condition: Column, other: "StageClass") -> "StageClass":
        """This one where a condition holds, the other where not."""
        counts = zip(self.counts, other.counts, strict=True)
        return StageClass(
            tuple(where(condition, mine, theirs) for mine, theirs in counts),
            where(condition, self.embedding, other.embedding),
            where(condition, self.head, other.head),
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A layout and the load on it. Every figure is a number, or a column with one for each candidate."""

    tp: Column
    """Ranks over which attention is split."""
    pp: Column
    shards: Column
    """Attention data-parallel shards of a replica: ep, in this project's layouts."""
    experts: Experts
    tp_links: Links
    """What a tp group spans, and likewise ep and pp; a column of fanouts may hold 1 for a tier that one does not span."""
    ep_links: Links
    pp_links: Links
    stages: Sequence[StageClass]
    """The classes of stages that there are, in any order; a class may be repeated."""
    replicas: Column
    """At least 1."""
    micro_batches: Column
    concurrency: Column
    """Requests at once, over the whole deployment."""
    input_tokens: Column
    output_tokens: Column
    kv_requests: Column
    """Requests that the KV cache of one shard holds."""


def steps_s(case: Case, loads: Sequence[Load], layer_overheads_s: Sequence[float], setting: Setting) -> list[Seconds]:
    """Several steps of one case; with columns all at once, so that what the load does not change is computed once."""
    if not any(map(Load.has_columns, loads)):
        pairs = zip(loads, layer_overheads_s, strict=True)
        return [step_s(case, load, overhead_s, setting) for load, overhead_s in pairs]
    time = step_s(case, Load.stacked(loads), stacked(layer_overheads_s), setting)
    return [Seconds(*(row_of(part, number) for part in time.parts())) for number in range(len(loads))]


def step_s(case: Case, load: Load, layer_overhead_s: Column, setting: Setting) -> Seconds:
    """One step of all stages. `layer_overhead_s` is the fixed time of a MoE layer.

    GPipe (arXiv 1811.06965, section 2.3): with m micro-batches the slowest stage works m times, and the others once
    each before or after it, which is the bubble. A step of fewer tokens than m is cut into as many as it has.
    """
    cuts = minimum(case.micro_batches, maximum(1.0, load.tokens))
    part = load.part(1 / cuts)
    layers = [_layer(case, layer, part, layer_overhead_s, setting) for layer in layer_kinds(setting.shape)]
    embedding, head = _embedding(case, part, setting), _head(case, part, setting)
    slowest = _slowest(case, layers, embedding, head)
    alone = len(case.stages) == 1  # the first stage has the embedding and the last the head, so one class is one stage
    whole = slowest if alone else _whole(setting, layers, embedding, head)
    hidden_bytes = part.tokens * setting.shape.hidden * setting.element_bytes
    send = send_s(hidden_bytes, case.pp_links, setting.constants.collectives)
    worked: Seconds = slowest * cuts
    return worked + Seconds(
        pp_send=(case.pp - 1) * send,
        pp_bubble=whole.total - slowest.total,
        overhead=setting.engine.step_s + setting.engine.request_s * load.requests,
    )


def _slowest(case: Case, layers: Sequence[Seconds], embedding: Seconds, head: Seconds) -> Seconds:
    """The stage that takes longest: found by its total, and then added up part by part."""
    totals, embedding_s, head_s = [layer.total for layer in layers], embedding.total, head.total

    def stage_s(stage: StageClass) -> Column:
        time_s = embedding_s * stage.embedding + head_s * stage.head
        for total, count in zip(totals, stage.counts, strict=True):
            time_s = time_s + total * count
        return time_s

    slowest = case.stages[0]
    slowest_s = stage_s(slowest) if len(case.stages) > 1 else 0.0
    for stage in case.stages[1:]:
        this_s = stage_s(stage)
        slowest = stage.where(this_s > slowest_s, slowest)
        slowest_s = maximum(slowest_s, this_s)
    time: Seconds = embedding * slowest.embedding + head * slowest.head
    for layer, count in zip(layers, slowest.counts, strict=True):
        time += layer * count
    return time


def _whole(setting: Setting, layers: Sequence[Seconds], embedding: Seconds, head: Seconds) -> Seconds:
    """All stages together, which does not depend on where they part."""
    time = embedding + head
    for layer, count in zip(layers, layer_counts(setting.shape), strict=True):
        time += layer * count
    return time


def _layer(case: Case, layer: Layer, load: Load, overhead_s: Column, setting: Setting) -> Seconds:
    """One layer of one micro-batch: kernels, an all-reduce after attention and after the FFN, dispatch and combine."""
    constants, engine = setting.constants, setting.engine
    kernels = layer_s(layer, case.tp, case.experts, load, setting)
    row_bytes = setting.shape.hidden * setting.element_bytes
    reduce_s = all_reduce_s(load.tokens * row_bytes, case.tp_links, engine, constants.collectives)
    dispatch_s = combine_s = 0.0
    if isinstance(layer.ffn, MoeFfn):
        dispatch_s, combine_s = _exchange(case, layer.ffn, load, kernels, setting)
    return Seconds(
        compute=kernels.compute_s,
        memory=kernels.memory_s,
        tp_all_reduce=2 * reduce_s,
        dispatch=dispatch_s,
        combine=combine_s,
        overhead=constants.kernel_counts.relative(layer) * overhead_s,
    )


def _exchange(case: Case, ffn: MoeFfn, load: Load, kernels: KernelTime, setting: Setting) -> tuple[Column, Column]:
    """Dispatch and combine of a MoE layer; 0 where one shard has all tokens on all of its ranks.

    From `overlap_tokens` on, what one half of the batch sends runs under the kernels of the other half: only what
    exceeds them counts.
    """
    width, engine = ffn.expert_hidden or setting.shape.hidden, setting.engine
    collectives = setting.constants.collectives
    sent = load.tokens * minimum(1.0, case.experts.tp / case.tp)
    formats = {"compute": setting.element_bytes, **ELEMENT_BYTES}
    bytes_out = width * min(formats[engine.dispatch_format], setting.element_bytes)
    dispatch_s = all_to_all_s(sent, bytes_out, ffn.top_k, case.ep_links, collectives)
    bytes_back = width * setting.element_bytes
    combine_s = dispatch_s
    if bytes_back != bytes_out:
        combine_s = all_to_all_s(sent, bytes_back, ffn.top_k, case.ep_links, collectives)
    shown = where(case.shards > 1, 1.0, 0.0)
    if engine.overlap_tokens:
        both_s = dispatch_s + combine_s
        hidden = maximum(0.0, both_s - kernels.compute_s - kernels.memory_s) / maximum(both_s, 1e-12)
        shown = shown * where(load.tokens >= engine.overlap_tokens, hidden, 1.0)
    return dispatch_s * shown, combine_s * shown


def _embedding(case: Case, load: Load, setting: Setting) -> Seconds:
    """A vocabulary-parallel embedding ends in an all-reduce; its one row a token is not worth counting."""
    hidden_bytes = load.tokens * setting.shape.hidden * setting.element_bytes
    return Seconds(
        tp_all_reduce=all_reduce_s(hidden_bytes, case.tp_links, setting.engine, setting.constants.collectives)
    )


def _head(case: Case, load: Load, setting: Setting) -> Seconds:
    """The head's product; one that shares the embedding's weights costs the same."""
    shape = setting.shape
    params = embedding_share(shape, case.tp) * (shape.head_params or shape.embedding_params) / shape.embedding_params
    kernel = head_s(params, load, setting)
    return Seconds(compute=kernel.compute_s, memory=kernel.memory_s)
