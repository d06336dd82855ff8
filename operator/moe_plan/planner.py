"""From a manifest to its plan: resolve names, choose degrees, prove the rules, deal, predict, sum up."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moe_plan.engines import FIELD as ENGINE
from moe_plan.engines import engine_rules, engines
from moe_plan.errors import ManifestError, Violation
from moe_plan.layout import Layout
from moe_plan.nearest import nearest
from moe_plan.notices import notices
from moe_plan.parameters import active_params, total_params
from moe_plan.plan import Degrees, ExpertMap, Plan, PlannedHardware, PlannedLoads, PlannedModel
from moe_plan.rules import expert_rules, memory_rules, request_rules, stage_rules, tensor_rules, world_rules
from moe_plan.search.choice import Choice, Forecast, forecast, room, work_out
from moe_plan.spec import MAX_GPUS, MoEDeployment, Spec
from moe_plan.subject import Subject, resolve
from moe_plan.units import format_seconds

if TYPE_CHECKING:
    from moe_plan.loads import ExpertLoads

_SCHEDULED = ("model", "hardware", "topology", "scheduling", "runtime", "serving")
"""Sections of the spec that reach the pods beside the layout."""


def make_plan(
    deployment: MoEDeployment,
    config: dict[str, Any] | None = None,
    stage_layers: Sequence[int] | None = None,
    loads: "ExpertLoads | None" = None,
    experts: ExpertMap | None = None,
) -> Plan:
    """The plan of a manifest; the same manifest gives the same bytes.

    `config` is the config.json that spec.model.configFrom refers to, `loads` are the measured expert loads that
    spec.parallelism.expertLoadsFrom refers to, or others to plan by. `stage_layers` and `experts` hold the stages and
    experts of another plan instead of balancing and dealing them, for a rehearsal of it with explicit degrees. Raises
    ManifestError with every reason why there is no plan, and the nearest layouts for which there is one.
    """
    subject = resolve(deployment, config, loads)
    _refuse(subject, _degree_rules(subject))
    found = _explicit(subject, stage_layers, experts) if is_explicit(subject) else _search(subject)
    return _sum_up(subject, found)


def reasons(subject: Subject) -> tuple[Violation, ...]:
    """Why a manifest with explicit degrees has no plan; none where it has one."""
    found = _degree_rules(subject)
    if not found and is_explicit(subject):
        found = list(memory_rules(subject, work_out(subject, explicit_choice(subject)).memory))
    return tuple(found)


def _degree_rules(subject: Subject) -> list[Violation]:
    """What is wrong whichever values the auto degrees take."""
    parallelism = subject.spec.parallelism
    ep, tp, pp = parallelism.ep, parallelism.tp, parallelism.pp
    found = list(request_rules(subject))
    if ep != "auto":
        found += expert_rules(subject, ep, parallelism.redundant_experts)
    if tp != "auto":
        found += tensor_rules(subject, tp)
    if pp != "auto":
        found += stage_rules(subject, pp)
    if ep != "auto" and tp != "auto" and pp != "auto":
        layout = Layout(ep, tp, pp, parallelism.rank_order)
        found += [*world_rules(subject, layout), *engine_rules(subject, layout, parallelism.redundant_experts)]
    else:
        found += _auto_rules(subject)
    return found


def _auto_rules(subject: Subject) -> list[Violation]:
    """`auto` needs to know how many GPUs there are, or what they must achieve."""
    parallelism, workload = subject.spec.parallelism, subject.spec.workload
    if parallelism.gpus is not None or workload.ttft is not None or workload.tpot is not None:
        return []
    names = [name for name in ("ep", "tp", "pp") if getattr(parallelism, name) == "auto"]
    return [
        Violation(
            "spec.parallelism.gpus",
            "GpusOrTargetsNeeded",
            f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} auto, but nothing says for how many GPUs",
            "set gpus, or a target that the fewest GPUs are to meet: spec.workload.ttft or spec.workload.tpot",
        )
    ]


def _refuse(subject: Subject, violations: list[Violation]) -> None:
    """Raise ManifestError if anything is wrong, with the nearest layouts if the layout is."""
    if not violations:
        return
    of_layout = any(violation.field.startswith(("spec.parallelism", ENGINE)) for violation in violations)
    undecided = any(violation.code == "GpusOrTargetsNeeded" for violation in violations)
    raise ManifestError(tuple(violations), nearest(subject) if of_layout and not undecided else ())


def is_explicit(subject: Subject) -> bool:
    """Whether no degree is auto."""
    parallelism = subject.spec.parallelism
    return "auto" not in (parallelism.ep, parallelism.tp, parallelism.pp)


def explicit_choice(subject: Subject) -> Choice:
    """The layout as given, no degree of which is auto."""
    parallelism = subject.spec.parallelism
    ep, tp, pp = parallelism.ep, parallelism.tp, parallelism.pp
    assert ep != "auto"
    assert tp != "auto"
    assert pp != "auto"
    return Choice(Layout(ep, tp, pp, parallelism.rank_order), parallelism.redundant_experts)


def _explicit(subject: Subject, stage_layers: Sequence[int] | None, experts: ExpertMap | None) -> Forecast:
    """The layout as given, once its memory is proved."""
    if experts is not None and experts.logical != subject.experts:
        message = f"the model has {subject.experts} experts a layer, and the plan that is rehearsed {experts.logical}"
        _refuse(subject, [Violation("spec.model", "OtherExperts", message, "take a model with as many")])
    draft = work_out(subject, explicit_choice(subject), stage_layers, experts)
    _refuse(subject, list(memory_rules(subject, draft.memory)))
    return forecast(subject, draft)


def _search(subject: Subject) -> Forecast:
    """The best layout within gpus; without gpus, the best of the fewest GPUs that meet the targets."""
    from moe_plan.search.find import search  # noqa: PLC0415  # numpy, which an explicit layout does without
    from moe_plan.search.space import FIELDS, space  # noqa: PLC0415  # as above

    gpus, replicas = subject.spec.parallelism.gpus, max(1, subject.spec.replicas)
    most = MAX_GPUS if gpus is None else min(gpus, MAX_GPUS)
    found = search(subject, space(subject, most * replicas, FIELDS))
    best, fewest = found.best, found.fewest
    if best is None:
        _refuse(subject, [_none_fits(subject, most)])
    assert best is not None
    chosen = best if gpus is not None or fewest is None else fewest
    predicted = forecast(subject, work_out(subject, found.workload.choice(chosen)))
    if gpus is None and fewest is None:
        raise ManifestError((_targets_missed(subject, predicted),))
    return predicted


def _none_fits(subject: Subject, most: int) -> Violation:
    hardware, engine = subject.hardware, engines().get(subject.spec.runtime.engine)
    expressed = f", and is one that {engine.title} can express" if engine else ""
    return Violation(
        "spec.parallelism.gpus" if subject.spec.parallelism.gpus is not None else "spec.parallelism",
        "NoLayoutFits",
        f"no layout of up to {most:,} {hardware.name} GPUs, {hardware.gpus_per_node} a node, both splits "
        f"{subject.shape.name} evenly and holds it{expressed}",
    )


def _targets_missed(subject: Subject, best: Forecast) -> Violation:
    layout, prediction = best.draft.choice.layout, best.prediction
    return Violation(
        "spec.workload",
        "TargetsOutOfReach",
        f"no layout of up to {MAX_GPUS:,} GPUs a replica meets the targets; the nearest, ep {layout.ep}, tp {layout.tp}, "
        f"pp {layout.pp}, is predicted to reach TTFT {format_seconds(prediction.ttft)} and TPOT "
        f"{format_seconds(prediction.tpot)} with room for {room(subject, best):,} requests of {subject.spec.workload.concurrency:,}",
        "relax the targets, lower concurrency, or add replicas",
    )


def _sum_up(subject: Subject, found: Forecast) -> Plan:
    spec, layout, hardware = subject.spec, found.draft.choice.layout, subject.hardware
    ranks_per_slot = min(layout.world, hardware.gpus_per_node)
    plan = Plan(
        name=subject.deployment.metadata.name,
        hash="",
        model=_planned_model(subject),
        hardware=_planned_hardware(subject),
        degrees=Degrees(ep=layout.ep, tp=layout.tp, pp=layout.pp),
        rank_order=layout.rank_order,
        replicas=spec.replicas,
        micro_batches=found.micro_batches,
        slots=layout.world // ranks_per_slot,
        ranks_per_slot=ranks_per_slot,
        stages=found.draft.stages,
        experts=found.draft.experts,
        limits=subject.limits,
        memory=found.draft.memory,
        kv_cache=found.kv,
        prediction=found.prediction,
        engine=spec.runtime.engine,
        port=spec.serving.port,
        expert_loads=_planned_loads(subject, found.draft.experts),
        warnings=notices(subject, found),
    )
    return plan.model_copy(update={"hash": plan_hash(plan, spec)})


def _planned_model(subject: Subject) -> PlannedModel:
    shape = subject.shape
    return PlannedModel(
        name=shape.name,
        family=shape.family,
        config=subject.config,
        source=subject.source,
        revision=subject.spec.model.revision,
        dtype=shape.formats.experts.name,
        compute_dtype=shape.formats.compute,
        kv_cache_dtype=subject.kv_cache_dtype,
        total_params=total_params(shape),
        active_params=active_params(shape),
    )


def _planned_loads(subject: Subject, experts: ExpertMap) -> PlannedLoads | None:
    dealer = subject.dealer
    if dealer is None:
        return None
    even = experts.model_copy(update={"exceptions": {}})
    return PlannedLoads(
        since=dealer.loads.since.isoformat(),
        tokens=dealer.loads.tokens,
        imbalance_without=dealer.imbalance(even),
        imbalance=dealer.imbalance(experts),
    )


def _planned_hardware(subject: Subject) -> PlannedHardware:
    hardware = subject.hardware
    return PlannedHardware(
        name=hardware.name,
        device=hardware.device,
        resource_name=subject.spec.hardware.resource_name,
        gpus_per_node=hardware.gpus_per_node,
        memory_bytes=hardware.memory_bytes,
        usable_bytes=hardware.usable_bytes,
    )


def plan_hash(plan: Plan, spec: Spec) -> str:
    """Digest of what decides pods: of a plan and of the spec that it was made of.

    Predictions, counts of memory and replicas are left out, so that neither a better cost model nor scaling rolls
    pods; so are a spec's defaults, so that a new field does not.
    """
    sized = {"name", "hash", "replicas", "memory", "kv_cache", "prediction", "expert_loads", "warnings"}
    decided = plan.model_dump(mode="json", exclude=sized)
    written = spec.model_dump(mode="json", include=set(_SCHEDULED), exclude_defaults=True)
    text = json.dumps([decided, written], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
