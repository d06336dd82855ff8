"""Everything that the documents tell of one deployment, worked out once: plan, traffic, alternatives, sensitivity."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moe_operator.report.alternatives import Alternatives, find_alternatives
from moe_operator.report.assumptions import Assumption, assumptions
from moe_operator.report.sensitivity import Sweep, sweeps
from moe_operator.report.traffic import Flow, flows
from moe_plan.audit import Audit, Contradiction, find_contradictions
from moe_plan.experts import physical_to_logical
from moe_plan.layout import Coordinate, Dimension, Layout
from moe_plan.loads import ExpertLoads
from moe_plan.plan import Plan
from moe_plan.shares import busiest_load
from moe_plan.spec import MoEDeployment
from moe_plan.subject import Subject, resolve


@dataclass(frozen=True)
class Material:
    """One deployment as the documents see it."""

    subject: Subject
    plan: Plan
    flows: tuple[Flow, ...]
    alternatives: Alternatives | None
    """None where nothing is predicted."""
    sweeps: tuple[Sweep, ...]
    assumptions: tuple[Assumption, ...]
    audits: tuple[Audit, ...]

    @property
    def serves(self) -> bool:
        """Whether the plan is for serving; of training only the memory is planned."""
        return self.subject.spec.workload.mode == "serving"

    @cached_property
    def layout(self) -> Layout:
        """The plan's layout."""
        degrees = self.plan.degrees
        return Layout(degrees.ep, degrees.tp, degrees.pp, self.plan.rank_order)

    @cached_property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """Coordinate of each rank."""
        return tuple(map(self.layout.coordinate, range(self.layout.world)))

    @property
    def told_layer(self) -> int | None:
        """The layer whose experts are told: the first that is dealt by its own loads; None where all are alike."""
        return min(self.plan.experts.exceptions, default=None)

    @property
    def told_layers(self) -> str:
        """The same in words."""
        return "each MoE layer" if self.told_layer is None else f"layer {self.told_layer}; the others differ"

    @cached_property
    def held_experts(self) -> tuple[tuple[int, ...], ...]:
        """Logical experts on each ep coordinate: of every MoE layer, or of `told_layer` where layers differ."""
        experts, each = self.plan.experts, self.plan.experts.per_rank
        physical = physical_to_logical(experts, -1 if self.told_layer is None else self.told_layer)
        return tuple(physical[ep * each : (ep + 1) * each] for ep in range(self.layout.ep))

    @property
    def busiest_share(self) -> float:
        """Share of a layer's routed tokens that the busiest ep coordinate computes."""
        return busiest_load(self.plan.experts)

    @property
    def skew(self) -> float:
        """Tokens of the busiest ep coordinate over their mean, with even routing."""
        return self.busiest_share * self.layout.ep

    @property
    def arithmetic_share(self) -> float:
        """Share of the GPUs' peak that the arithmetic of decoding takes: 2 operations a parameter and token."""
        per_gpu = self.plan.prediction.tokens_per_s_per_gpu
        return 2 * self.plan.model.active_params * per_gpu / self.subject.hardware.flops_per_s(self.plan.model.dtype)

    @cached_property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """Claims that differ between the audited documents."""
        return tuple(find_contradictions(self.audits))

    def groups(self, dimension: Dimension) -> tuple[tuple[int, ...], ...]:
        """Groups along a dimension, ascending by first rank."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for rank, here in enumerate(self.coordinates):
            groups.setdefault(here._replace(**{dimension: 0}), []).append(rank)
        return tuple(sorted(map(tuple, groups.values())))


def gather(
    deployment: MoEDeployment,
    plan: Plan,
    config: dict[str, Any] | None,
    audits: Sequence[Audit] = (),
    loads: ExpertLoads | None = None,
) -> Material:
    """Work out what the documents tell.

    `config` is what spec.model.configFrom refers to, `loads` are measured expert loads; `audits` are of claims.
    """
    subject = resolve(deployment, config, loads)
    serves = subject.spec.workload.mode == "serving"
    return Material(
        subject=subject,
        plan=plan,
        flows=flows(subject, plan) if serves else (),
        alternatives=find_alternatives(deployment, plan, config, loads) if serves else None,
        sweeps=sweeps(deployment, plan, config, loads) if serves else (),
        assumptions=assumptions(subject),
        audits=tuple(audits),
    )
