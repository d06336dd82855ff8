"""What else could be done with as many GPUs: the best layout for the workload, why others lose, and the front at any load."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from moe_plan.errors import ManifestError
from moe_plan.loads import ExpertLoads
from moe_plan.plan import Plan
from moe_plan.search.compare import compare
from moe_plan.search.result import Found, SearchResult
from moe_plan.spec import MAX_GPUS, MoEDeployment

Target = Literal["tpot", "ttft"]
TARGETS: tuple[Target, ...] = ("tpot", "ttft")


@dataclass(frozen=True, slots=True)
class Alternative:
    """One layout under the manifest's load."""

    role: str
    """this plan, best, fewest GPUs or runner-up."""
    name: str
    gpus: int
    """Of all replicas."""
    ttft: float
    tpot: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    remark: str


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The plan among the layouts that a search found on at most as many GPUs."""

    gpus: int
    result: SearchResult | None
    why_not: str
    """Where nothing meets the targets: what comes nearest and what binds it; the result is then one without them."""
    rows: tuple[Alternative, ...]
    """The plan, the best, the best of the fewest GPUs and the runners-up, each once."""

    def front(self, target: Target) -> tuple[Found, ...]:
        """At any load: the points with more tokens/s a GPU than any that is as quick, quickest first."""
        points = self.result.front if self.result else ()
        found: list[Found] = []
        for point in sorted(points, key=lambda point: (getattr(point, target), -point.tokens_per_s_per_gpu)):
            if not found or point.tokens_per_s_per_gpu > found[-1].tokens_per_s_per_gpu:
                found.append(point)
        return tuple(found)


def find_alternatives(
    deployment: MoEDeployment, plan: Plan, config: dict[str, Any] | None, loads: ExpertLoads | None = None
) -> Alternatives:
    """Search for what the manifest's model and workload can do on the GPUs of its plan.

    Where nothing meets the targets it says so, and searches without them.
    """
    gpus = min(MAX_GPUS, plan.degrees.world * max(1, plan.replicas))
    missed = ""
    for attempt in (deployment, _without_targets(deployment)):
        try:
            result = compare(attempt, config, gpus, loads=loads)
        except ManifestError as error:
            missed = missed or "; ".join(map(str, error.violations))
        else:
            return Alternatives(gpus, result, missed, _rows(plan, result))
    return Alternatives(gpus, None, missed, ())


def _without_targets(deployment: MoEDeployment) -> MoEDeployment:
    workload = deployment.spec.workload.model_copy(update={"ttft": None, "tpot": None})
    return deployment.model_copy(update={"spec": deployment.spec.model_copy(update={"workload": workload})})


def describe(found: Found) -> str:
    """A layout in a few words."""
    return _words(found.ep, found.tp, found.pp, found.redundant_experts, found.replicas)


def _words(ep: int, tp: int, pp: int, redundant: int, replicas: int) -> str:
    copies = f" + {redundant} redundant experts" if redundant else ""
    return f"ep {ep} · tp {tp} · pp {pp}{copies}" + (f" × {replicas:,} replicas" if replicas > 1 else "")


def _rows(plan: Plan, result: SearchResult) -> tuple[Alternative, ...]:
    own = result.written.layout if result.written else None
    planned = _planned(plan, own.loses if own else "")
    asked = result.workload.ttft is not None or result.workload.tpot is not None
    within, that_do = (" within the targets", " that meet the targets") if asked else ("", " that hold the requests")
    rows = [
        planned,
        _row("best", result.best, "most tokens/s" + within),
        *([] if result.fewest is None else [_row("fewest GPUs", result.fewest, "the fewest" + that_do)]),
        *(_row("runner-up", other, other.loses) for other in result.runners_up),
    ]
    known: dict[tuple[str, int], Alternative] = {}
    for row in rows:
        same = known.get((row.name, row.gpus))
        known[row.name, row.gpus] = row if same is None else _also(same, row)
    return tuple(known.values())


def _also(one: Alternative, same: Alternative) -> Alternative:
    """One row for a layout that has two roles."""
    role = one.role if same.role == "runner-up" else f"{one.role}, {same.role}"
    return replace(one, role=role, remark=one.remark or same.remark)


def _planned(plan: Plan, remark: str) -> Alternative:
    degrees, prediction, replicas = plan.degrees, plan.prediction, max(1, plan.replicas)
    return Alternative(
        "this plan",
        _words(degrees.ep, degrees.tp, degrees.pp, plan.experts.redundant, replicas),
        degrees.world * replicas,
        prediction.ttft,
        prediction.tpot,
        prediction.tokens_per_s,
        prediction.tokens_per_s_per_gpu,
        remark,
    )


def _row(role: str, found: Found, remark: str) -> Alternative:
    return Alternative(
        role,
        describe(found),
        found.gpus,
        found.ttft,
        found.tpot,
        found.tokens_per_s,
        found.tokens_per_s_per_gpu,
        remark,
    )
