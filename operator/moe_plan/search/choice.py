"""One layout, worked out to memory and prediction as a plan is, and compared; and the few that lie near to an invalid one.

Algebra leaves a few hundred candidates of the millions that could be written down; only those whose weights can fit
are worked out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moe_plan.cost import predict
from moe_plan.cost.constants import constants
from moe_plan.engines import expressible
from moe_plan.experts import deal
from moe_plan.layout import Layout
from moe_plan.memory import kv_cache, stage_memory
from moe_plan.plan import ExpertMap, KvCache, Prediction, Stage, StageMemory
from moe_plan.stages import balance, layer_costs, make_stages, stage_costs
from moe_plan.subject import Subject

Miss = Literal["concurrency", "ttft", "tpot"]
"""What of a workload can be missed."""


class Choice(NamedTuple):
    """A layout and the copies of experts in it."""

    layout: Layout
    redundant: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A choice dealt over its ranks."""

    choice: Choice
    experts: ExpertMap
    stages: tuple[Stage, ...]
    memory: tuple[StageMemory, ...]
    skew: float | None = None
    """By how much measured loads raise that of the busiest rank; None where none were measured."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A draft that fits, and what it is expected to do."""

    draft: Draft
    kv: KvCache
    micro_batches: int
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Domain:
    """The values that an enumeration runs through."""

    experts: tuple[tuple[int, int], ...]
    """ep and redundant experts."""
    tp: tuple[int, ...]
    pp: tuple[int, ...]


def choices(subject: Subject, domain: Domain, max_gpus: int) -> Iterator[Choice]:
    """Layouts of a domain that the algebra allows, gpus apart, and whose weights can fit."""
    order = subject.spec.parallelism.rank_order
    per_node = subject.hardware.gpus_per_node
    for tp in domain.tp:
        for ep, redundant in domain.experts:
            if not _each_layer_may_fit(subject, Choice(Layout(ep, tp, 1, order), redundant)):
                continue
            for pp in domain.pp:
                world = ep * tp * pp
                if world > max_gpus:
                    break
                if world > per_node and world % per_node:
                    continue
                choice = Choice(Layout(ep, tp, pp, order), redundant)
                if _is_placed(subject, choice) and _weights_may_fit(subject, choice):
                    yield choice


def work_out(
    subject: Subject,
    choice: Choice,
    stage_layers: Sequence[int] | None = None,
    experts: ExpertMap | None = None,
) -> Draft:
    """Deal experts and layers of a valid choice, and count its memory.

    `stage_layers` overrides the balance of layers, `experts` the dealing of experts.
    """
    layout = choice.layout
    experts, skew = _deal(subject, choice) if experts is None else (experts, None)
    layers = len(subject.shape.layers)
    counts = stage_layers or ((layers,) if layout.pp == 1 else _balanced(subject, layout, experts))
    assert (len(counts), sum(counts)) == (layout.pp, layers)
    stages = make_stages(counts)
    return Draft(choice, experts, stages, _memory(subject, layout, experts, stages), skew)


def _deal(subject: Subject, choice: Choice) -> tuple[ExpertMap, float | None]:
    """Experts by measured loads and the skew that these then cause, or evenly."""
    if subject.dealer is None:
        return deal(subject.experts, choice.redundant, choice.layout.ep), None
    redundant, ep = choice.redundant, choice.layout.ep
    return subject.dealer.deal(redundant, ep), subject.dealer.evenness(redundant, ep).skew


def _balanced(subject: Subject, layout: Layout, experts: ExpertMap) -> tuple[int, ...]:
    """Layers of each stage, balanced by cost."""
    return balance(stage_costs(subject, layout.tp, experts.per_rank), layout.pp)


def fits(subject: Subject, draft: Draft) -> bool:
    """Whether every stage is within the usable memory."""
    return all(stage.total <= subject.hardware.usable_bytes for stage in draft.memory)


def forecast(subject: Subject, draft: Draft) -> Forecast:
    """The prediction for a draft that fits, with the best micro-batches where they are auto."""
    spec, layout = subject.spec, draft.choice.layout
    kv = kv_cache(
        subject.shape, layout, draft.stages, draft.memory, subject.limits, spec.workload, subject.kv_cache_dtype
    )

    def with_micro_batches(micro_batches: int) -> Forecast:
        prediction = predict(
            subject.shape,
            layout,
            draft.experts,
            draft.stages,
            subject.hardware,
            spec.workload,
            max(1, spec.replicas),
            micro_batches,
            kv,
            spec.runtime.engine,
            subject.limits.max_batch_tokens,
            draft.skew,
        )
        return Forecast(draft, kv, micro_batches, prediction)

    return min(map(with_micro_batches, _micro_batches(subject, layout.pp)), key=lambda found: merit(subject, found))


def forecasts(subject: Subject, candidates: Iterable[Choice]) -> Iterator[Forecast]:
    """Forecasts of those candidates that fit."""
    for choice in candidates:
        draft = work_out(subject, choice)
        if fits(subject, draft):
            yield forecast(subject, draft)


def merit(subject: Subject, found: Forecast) -> tuple[float, ...]:
    """Order of forecasts, the best least: nearest to the targets, then most tokens/s, then fewest GPUs.

    What remains is settled by the degrees, so that the same manifest always gets the same layout.
    """
    layout = found.draft.choice.layout
    speed = -found.prediction.tokens_per_s
    return (shortfall(subject, found), speed, layout.world, layout.pp, layout.tp, found.micro_batches)


def shortfall(subject: Subject, found: Forecast) -> float:
    """By what factor the worst of the workload's targets is missed, less one; 0 when all are met."""
    return max(0.0, max((miss for _, miss in misses(subject, found)), default=0.0) - 1)


def misses(subject: Subject, found: Forecast) -> list[tuple[Miss, float]]:
    """For each of the workload's targets, and for its requests, the factor by which it is missed: above 1 it is."""
    workload, prediction = subject.spec.workload, found.prediction
    factors: list[tuple[Miss, float]] = []
    if workload.mode != "training":
        factors.append(("concurrency", workload.concurrency / max(room(subject, found), 0.5)))
    if workload.ttft is not None:
        factors.append(("ttft", prediction.ttft / workload.ttft))
    if workload.tpot is not None:
        factors.append(("tpot", prediction.tpot / workload.tpot))
    return factors


def room(subject: Subject, found: Forecast) -> int:
    """Requests of the workload that the KV caches of the whole deployment hold at once."""
    return found.kv.requests_per_shard * found.draft.choice.layout.ep * max(1, subject.spec.replicas)


def _is_placed(subject: Subject, choice: Choice) -> bool:
    """Whether tp groups lie where they may, and the engine can express the layout."""
    layout, allowed = choice.layout, subject.spec.parallelism.allow_cross_node_tensor_parallel
    placed = allowed or not layout.crosses_nodes("tp", subject.hardware.gpus_per_node)
    return placed and expressible(subject, layout, choice.redundant)


def _each_layer_may_fit(subject: Subject, choice: Choice) -> bool:
    """Whether each kind of layer fits by itself: what no number of stages mends, such as buffers of a huge batch."""
    experts = deal(subject.experts, choice.redundant, choice.layout.ep)
    firsts = (subject.kinds.index(kind) for kind in sorted(set(subject.kinds)))
    alone = (Stage(pp=0, first_layer=first, layers=1, embedding=False, head=False) for first in firsts)
    usable = subject.hardware.usable_bytes
    return all(_stage_memory(subject, choice.layout, experts, stage).total <= usable for stage in alone)


def _weights_may_fit(subject: Subject, choice: Choice) -> bool:
    """Whether the average stage's weights alone leave room: a bound that needs no stages."""
    layout, formats = choice.layout, subject.shape.formats
    costs = layer_costs(subject.shape, layout.tp, (subject.experts + choice.redundant) / layout.ep)
    least = sum(costs[kind] for kind in subject.kinds) / layout.pp
    if subject.spec.workload.mode == "training":
        widest = max(formats.experts.bytes_per_param, formats.linear.bytes_per_param, formats.other.bytes_per_param)
        least *= 1 + (constants().gradient_bytes + constants().optimizer_bytes) / widest
    return bool(least <= subject.hardware.usable_bytes)


def _stage_memory(subject: Subject, layout: Layout, experts: ExpertMap, stage: Stage) -> StageMemory:
    return stage_memory(
        subject.shape,
        layout,
        experts,
        stage,
        subject.hardware,
        subject.limits,
        subject.spec.workload,
        subject.kv_cache_dtype,
    )


def _memory(subject: Subject, layout: Layout, experts: ExpertMap, stages: Sequence[Stage]) -> tuple[StageMemory, ...]:
    """Memory of each stage; stages that hold the same kinds of layers are counted once."""
    counted: dict[tuple[object, ...], StageMemory] = {}
    found = []
    for stage in stages:
        kinds = sorted(subject.kinds[stage.first_layer : stage.first_layer + stage.layers])
        key = (tuple(kinds), stage.embedding, stage.head)
        if key in counted:
            found.append(counted[key].model_copy(update={"pp": stage.pp}))
        else:
            counted[key] = _stage_memory(subject, layout, experts, stage)
            found.append(counted[key])
    return tuple(found)


def _micro_batches(subject: Subject, pp: int) -> tuple[int, ...]:
    """The given number, or those that may be best: one for each stage or a few, within a step's tokens."""
    given = subject.spec.parallelism.micro_batches
    if given != "auto":
        return (given,)
    if pp == 1:
        return (1,)
    return tuple(dict.fromkeys(min(n, subject.limits.max_batch_tokens) for n in (1, pp, 2 * pp, 4 * pp)))
