"""The answer of `moe search`: what is best for a manifest's model, GPUs and workload, and how the manifest compares."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moe_plan.errors import ManifestError, Violation
from moe_plan.nearest import changed_fields, neighbours
from moe_plan.planner import explicit_choice, is_explicit, reasons
from moe_plan.rules import expert_rules, request_rules, stage_rules, tensor_rules
from moe_plan.search.choice import Forecast, forecast, shortfall, work_out
from moe_plan.search.find import Search, any_load, front_of, runners_up, search
from moe_plan.search.reasons import Predicted, binding, largest_part, most_missed, why_it_loses
from moe_plan.search.result import Counts, Found, Neighbour, RunnerUp, SearchResult, Target, Written
from moe_plan.search.space import Field, space
from moe_plan.search.swept import Swept
from moe_plan.spec import MAX_GPUS, MoEDeployment
from moe_plan.subject import Subject, resolve
from moe_plan.units import format_seconds

if TYPE_CHECKING:
    from moe_plan.loads import ExpertLoads


def compare(
    deployment: MoEDeployment,
    config: dict[str, Any] | None = None,
    gpus: int | None = None,
    keep: Sequence[Field] = (),
    loads: "ExpertLoads | None" = None,
) -> SearchResult:
    """Search all layouts for a manifest, its degrees apart from those in `keep`, on at most so many GPUs.

    Without `gpus` they are as many as the manifest asks for. `loads` are measured expert loads. Raises ManifestError
    where no layout fits or meets the targets, with what comes nearest, what binds, and what would do.
    """
    subject = _changed(resolve(deployment, config, loads), replicas=max(1, deployment.spec.replicas))
    refuse_kept(subject, keep)
    most = gpus or gpus_of(subject)
    found = search(subject, space(subject, most, keep))
    candidate, best = _best(subject, found, most, keep)
    swept, met, loaded = found.workload, found.fewest, any_load(found)
    points = tuple(loaded.found(point) for point in front_of(loaded))
    return SearchResult(
        name=deployment.metadata.name,
        model=subject.shape.name,
        hardware=subject.hardware.name,
        engine=subject.spec.runtime.engine,
        workload=target_of(subject),
        max_gpus=most,
        kept=tuple(keep),
        counts=Counts(layouts=len(found.rows), loads=len(swept) + len(loaded)),
        best=best.found,
        runners_up=tuple(_runner_up(_predicted(swept, other), best) for other in runners_up(found, candidate)),
        fewest=None if met is None else swept.found(met),
        densest=next((point for point in points if point.meets), None),
        front=points,
        written=_written(subject, best),
    )


def _best(subject: Subject, found: Search, most: int, keep: Sequence[Field]) -> tuple[int, Predicted]:
    """The best candidate. Raises ManifestError where no layout fits or meets the targets."""
    if found.best is None:
        raise ManifestError((_none_fits(subject, most, keep),))
    best = _predicted(found.workload, found.best)
    if not best.found.meets:
        raise ManifestError((_missed(subject, best, most, keep),))
    return found.best, best


def _predicted(swept: Swept, candidate: int) -> Predicted:
    """A candidate, worked out as a plan is."""
    loads, parallelism = swept.loads, swept.subject.spec.parallelism
    subject = _changed(
        swept.subject,
        replicas=int(loads.replicas[candidate]),
        parallelism=parallelism.model_copy(update={"micro_batches": int(loads.micro_batches[candidate])}),
    )
    predicted = forecast(subject, work_out(subject, swept.choice(candidate)))
    return Predicted(subject, swept.found(candidate), predicted)


def _changed(subject: Subject, **fields: Any) -> Subject:
    """The subject with other values in its spec."""
    spec = subject.spec.model_copy(update=fields)
    return replace(subject, deployment=subject.deployment.model_copy(update={"spec": spec}))


def _runner_up(other: Predicted, best: Predicted) -> RunnerUp:
    return RunnerUp(**other.found.model_dump(), loses=why_it_loses(other, best))


def _written(subject: Subject, best: Predicted) -> Written | None:
    """How the manifest's own layout compares, where it has one."""
    if not is_explicit(subject):
        return None
    violations = reasons(subject)
    if violations:
        near = sorted((_neighbour(subject, forecast, best) for forecast in neighbours(subject)), key=lambda n: n.loss)
        return Written(layout=None, violations=tuple(map(str, violations)), neighbours=tuple(near))
    own = _told(subject, forecast(subject, work_out(subject, explicit_choice(subject))))
    same = own.found == best.found
    return Written(layout=RunnerUp(**own.found.model_dump(), loses="" if same else why_it_loses(own, best)))


def _neighbour(subject: Subject, near: Forecast, best: Predicted) -> Neighbour:
    told = _told(subject, near)
    loss = 1 - told.found.tokens_per_s / best.found.tokens_per_s
    return Neighbour(**told.found.model_dump(), changes=changed_fields(subject, near.draft.choice), loss=loss)


def _told(subject: Subject, predicted: Forecast) -> Predicted:
    """A forecast of the manifest's own replicas, as it is told."""
    layout, prediction, replicas = predicted.draft.choice.layout, predicted.prediction, max(1, subject.spec.replicas)
    found = Found(
        ep=layout.ep,
        tp=layout.tp,
        pp=layout.pp,
        replicas=replicas,
        gpus=layout.world * replicas,
        redundant_experts=predicted.draft.choice.redundant,
        rank_order=layout.rank_order,
        micro_batches=predicted.micro_batches,
        concurrency=subject.spec.workload.concurrency,
        batch_per_shard=prediction.batch_per_shard,
        ttft=prediction.ttft,
        tpot=prediction.tpot,
        tokens_per_s=prediction.tokens_per_s,
        tokens_per_s_per_gpu=prediction.tokens_per_s_per_gpu,
        meets=shortfall(subject, predicted) == 0,
    )
    return Predicted(subject, found, predicted)


def describe(found: Found) -> str:
    """A layout in a few words: 'ep 64, tp 2, pp 1 with 2 replicas (256 GPUs)'."""
    copies = f", redundantExperts {found.redundant_experts}" if found.redundant_experts else ""
    replicas = f" with {found.replicas:,} replicas" if found.replicas > 1 else ""
    gpus = "1 GPU" if found.gpus == 1 else f"{found.gpus:,} GPUs"
    return f"ep {found.ep}, tp {found.tp}, pp {found.pp}{copies}{replicas} ({gpus})"


def target_of(subject: Subject) -> Target:
    """The workload as a result tells it."""
    workload = subject.spec.workload
    return Target(
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        concurrency=workload.concurrency,
        ttft=workload.ttft,
        tpot=workload.tpot,
    )


def gpus_of(subject: Subject) -> int:
    """GPUs that the manifest asks for: its gpus, or its degrees; all that are looked at where targets decide."""
    parallelism, workload, replicas = subject.spec.parallelism, subject.spec.workload, max(1, subject.spec.replicas)
    if parallelism.gpus is not None:
        return min(MAX_GPUS, parallelism.gpus * replicas)
    if is_explicit(subject):
        return min(MAX_GPUS, explicit_choice(subject).layout.world * replicas)
    if workload.ttft is not None or workload.tpot is not None:
        return MAX_GPUS
    raise ManifestError(
        (
            Violation(
                "spec.parallelism.gpus",
                "GpusOrTargetsNeeded",
                "nothing says how many GPUs there are",
                "set gpus or give --gpus, or set a target that the fewest GPUs are to meet: spec.workload.ttft or spec.workload.tpot",
            ),
        )
    )


def refuse_kept(subject: Subject, keep: Sequence[Field]) -> None:
    """Raise ManifestError with what is wrong whatever the free fields become."""
    parallelism, kept = subject.spec.parallelism, set(keep)
    found = list(request_rules(subject))
    if "ep" in kept and parallelism.ep != "auto" and "redundantExperts" in kept:
        found += expert_rules(subject, parallelism.ep, parallelism.redundant_experts)
    if "tp" in kept and parallelism.tp != "auto":
        found += tensor_rules(subject, parallelism.tp)
    if "pp" in kept and parallelism.pp != "auto":
        found += stage_rules(subject, parallelism.pp)
    if found:
        raise ManifestError(tuple(found))


def _none_fits(subject: Subject, most: int, keep: Sequence[Field]) -> Violation:
    """No layout holds the model on so many GPUs; on how many one does."""
    hardware, more = subject.hardware, search(subject, space(subject, MAX_GPUS, keep)) if most < MAX_GPUS else None
    remedy = "choose GPUs with more memory, a narrower dtype, or shorter requests (spec.serving.maxModelLength)"
    if more is not None and len(more.rows):
        remedy = f"the least that does has {int(more.rows.layouts.world.min()):,} GPUs"
    return Violation(
        "spec.parallelism",
        "NoLayoutFits",
        f"no layout of up to {most:,} {hardware.name} GPUs, {hardware.gpus_per_node} a node, both splits "
        f"{subject.shape.name} evenly and holds it",
        remedy,
    )


def _missed(subject: Subject, best: Predicted, most: int, keep: Sequence[Field]) -> Violation:
    """Nothing meets the targets: what comes nearest, what binds it, and what would do."""
    found, missed = best.found, most_missed(best)
    spent = (
        ""
        if missed == "concurrency"
        else f", {largest_part(getattr(best.forecast.prediction, f'{missed}_parts'))} of it"
    )
    return Violation(
        "spec.workload",
        "TargetsOutOfReach",
        f"no layout of up to {most:,} GPUs meets the targets; the nearest, {describe(found)}, is predicted to reach "
        f"TTFT {format_seconds(found.ttft)} and TPOT {format_seconds(found.tpot)}: {binding(best)}{spent}",
        _what_would_do(subject, most, keep),
    )


def _what_would_do(subject: Subject, most: int, keep: Sequence[Field]) -> str:
    more = search(subject, space(subject, MAX_GPUS, keep)) if most < MAX_GPUS else None
    if more is None or more.fewest is None:
        return "relax the targets or lower concurrency"
    found = more.workload.found(more.fewest)
    return f"{found.gpus:,} GPUs do: {describe(found)}"
