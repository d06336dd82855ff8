"""What a plan says beside its figures: it is valid, but falls short of the workload or wastes something."""

import math
from collections.abc import Iterator

from moe_plan.bundled import ENGINE, unexecuted_family, unloaded_dtype
from moe_plan.engines import engines
from moe_plan.search.choice import Forecast, room
from moe_plan.subject import LOADS_FIELD, Subject
from moe_plan.units import format_seconds

FEW_TOKENS = 1000
"""Tokens of the mean expert below which chance moves a count by more than 3 %."""


def notices(subject: Subject, found: Forecast) -> tuple[str, ...]:
    """Warnings of a plan, each one sentence that names the field it is about."""
    return (
        *_targets(subject, found),
        *_requests(subject, found),
        *_micro_batches(subject, found),
        *_padding(subject, found),
        *_spare_gpus(subject, found),
        *_capacity(subject),
        *_few_tokens(subject),
        *_engine(subject),
        *_bundled(subject),
        *_inferred(subject),
    )


def _targets(subject: Subject, found: Forecast) -> Iterator[str]:
    workload, prediction = subject.spec.workload, found.prediction
    for name, target, predicted in (
        ("ttft", workload.ttft, prediction.ttft),
        ("tpot", workload.tpot, prediction.tpot),
    ):
        if target is not None and predicted > target:
            yield (
                f"workload.{name}: {format_seconds(predicted)} is predicted, {predicted / target:.2g} times the target "
                f"of {format_seconds(target)}"
            )


def _requests(subject: Subject, found: Forecast) -> Iterator[str]:
    workload, replicas = subject.spec.workload, max(1, subject.spec.replicas)
    if workload.mode == "training":
        return
    shards = found.draft.choice.layout.ep * replicas
    length = workload.input_tokens + workload.output_tokens
    if length > subject.limits.max_model_length:
        yield (
            f"serving.maxModelLength: requests of the workload have {length:,} tokens, more than the "
            f"{subject.limits.max_model_length:,} that are admitted"
        )
    held = room(subject, found)
    if held < workload.concurrency:
        yield (
            f"workload.concurrency: the KV cache holds {held:,} requests of {length:,} tokens at once, "
            f"{workload.concurrency:,} are expected; the others wait"
        )
    if workload.concurrency < shards:
        yield (
            f"workload.concurrency: {workload.concurrency:,} requests leave {shards - workload.concurrency:,} of "
            f"{shards:,} shards without one; a smaller ep or fewer replicas serve them as well"
        )


def _micro_batches(subject: Subject, found: Forecast) -> Iterator[str]:
    given, pp = subject.spec.parallelism.micro_batches, found.draft.choice.layout.pp
    if given == "auto":
        return
    batch = found.prediction.batch_per_shard
    if pp == 1 and given > 1:
        yield f"parallelism.microBatches: {given} overlap nothing, since pp is 1"
    elif given > max(1, batch) and subject.spec.workload.mode == "serving":
        yield (
            f"parallelism.microBatches: {given} are more than the {batch} requests that a shard decodes at once, so "
            f"{given - batch} of them are empty in its decode steps"
        )


def _padding(subject: Subject, found: Forecast) -> Iterator[str]:
    tp = found.draft.choice.layout.tp
    for width in subject.widths:
        share = math.ceil(width.blocks / tp)
        waste = share * tp / width.blocks - 1
        if width.block > 1 and waste > 0:
            yield (
                f"parallelism.tp: the {width.blocks} {width.format} blocks of the {width.name} are dealt whole, {share} "
                f"a rank at tp {tp}, which pads {waste:.1%} of its memory and time"
            )


def _spare_gpus(subject: Subject, found: Forecast) -> Iterator[str]:
    gpus, layout = subject.spec.parallelism.gpus, found.draft.choice.layout
    if gpus is not None and layout.world < gpus:
        yield (
            f"parallelism.gpus: ep {layout.ep}, tp {layout.tp}, pp {layout.pp} use {layout.world:,} of {gpus:,} GPUs a "
            "replica"
        )


def _few_tokens(subject: Subject) -> Iterator[str]:
    """Counts of n tokens vary by √n."""
    if subject.dealer is None:
        return
    loads = subject.dealer.loads
    each = sum(map(sum, loads.layers.values())) / sum(map(len, loads.layers.values()))
    if each < FEW_TOKENS:
        yield (
            f"{LOADS_FIELD.removeprefix('spec.')}: {loads.tokens:,} tokens, {each:,.1f} an expert, tell loads apart only "
            f"beyond {1 / math.sqrt(each):.0%}; measure for longer"
        )


def _capacity(subject: Subject) -> Iterator[str]:
    factor, engine = subject.limits.capacity_factor, engines().get(subject.spec.runtime.engine)
    if factor is not None:
        runs = engine.title if engine else "the bundled runtime"
        yield f"serving.capacityFactor: {factor:g} is not applied; {runs} computes every token of every expert"


def _engine(subject: Subject) -> Iterator[str]:
    """What another engine decides by itself."""
    given, engine = subject.spec.parallelism.micro_batches, engines().get(subject.spec.runtime.engine)
    if engine is not None and given != "auto":
        yield f"parallelism.microBatches: {given} are planned for, but {engine.title} makes its own"


def _bundled(subject: Subject) -> Iterator[str]:
    """What of a model the bundled runtime cannot start."""
    if subject.spec.runtime.engine != ENGINE:
        return
    if family := unexecuted_family(subject.config):
        yield f"runtime.engine: {family}, so a cluster refuses this plan; set engine to sglang or vllm"
    elif dtype := unloaded_dtype(subject.shape.formats.experts.name):
        yield f"model.dtype: {dtype}; pods of this plan end as they start"


def _inferred(subject: Subject) -> Iterator[str]:
    if subject.inferred_family is not None:
        yield (
            f"model.config: the family {subject.config.get('model_type')!r} is not known; planned as if it were "
            f"{subject.inferred_family}, so memory and times may be some percent off"
        )
