"""report.html: one page that needs nothing but itself; facts, pictures with a table behind each, sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from moe_operator.report import charts
from moe_operator.report.alternatives import TARGETS, Alternatives, Target, describe
from moe_operator.report.drawing import pods, ranges, shown_dimensions
from moe_operator.report.material import Material
from moe_operator.report.rendering import html
from moe_operator.report.traffic import Flow
from moe_plan.audit import Verdict
from moe_plan.hardware import LinkTier
from moe_plan.layout import Dimension
from moe_plan.plan import StageMemory, TimeParts
from moe_plan.search.result import Found
from moe_plan.units import format_bytes, format_seconds

MEMORY_NAMES = {
    "attention": "attention",
    "experts": "experts",
    "redundant_experts": "redundant experts",
    "shared_experts": "shared experts",
    "dense_ffn": "dense FFN",
    "embedding": "embedding",
    "head": "head",
    "other_weights": "norms, routers",
    "activations": "activations",
    "communication": "communication",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "kv_cache": "KV cache",
}
TIME_MEANINGS = {
    "compute": "arithmetic",
    "memory": "reading weights and KV cache, beyond what arithmetic hides",
    "tp_all_reduce": "sums over the ranks of a tp group",
    "dispatch": "tokens to the ranks of their experts",
    "combine": "results of experts back",
    "pp_send": "hidden states to the next stage",
    "pp_bubble": "stages waiting for each other",
    "overhead": "launches, small kernels, scheduling, sampling",
    "queueing": "waiting for other requests' prompts and for room",
}


@dataclass(frozen=True, slots=True)
class Group:
    """The groups along one dimension, as a row of the table."""

    dimension: Dimension
    does: str
    count: int
    size: int
    pods: str
    example: str


class Tile(NamedTuple):
    """A figure that heads the page."""

    name: str
    figure: str
    note: str


@dataclass(frozen=True, slots=True)
class SweepView:
    """A knob of the workload: its name, table and charts."""

    name: str
    given: int
    rows: tuple[tuple[str, ...], ...]
    plots: tuple[charts.Plot, ...]


def page(material: Material, verification: dict[str, Any]) -> str:
    """The text of report.html. `verification` is what verify.py printed with --json."""
    plan = material.plan
    context = {
        "m": material,
        "plan": plan,
        "verification": verification,
        "tiles": tuple(tiles(material)),
        "pods": pods(material),
        "dimensions": shown_dimensions(material),
        "groups": tuple(_groups(material)),
        "traffic": tuple(_traffic(material)),
        "memory": _memory_bars(material),
        "closer": _closer_memory_bars(material),
        "memory_rows": _memory_rows(material),
        "memory_hues": charts.hues(tuple(MEMORY_NAMES.values())),
        "usable": plan.hardware.usable_bytes / plan.hardware.memory_bytes * 100,
        "times": _time_bars(material),
        "time_rows": tuple(_time_rows(material)),
        "alternatives": material.alternatives,
        "fronts": _fronts(material),
        "front_rows": _front_rows(material),
        "describe": describe,
        "sweeps": tuple(_sweeps(material)),
        "audits": [(audit, *_judged(audit.verdicts)) for audit in material.audits],
        "ranges": ranges,
    }
    return html("report.html.j2", context)


def tiles(material: Material) -> Iterator[Tile]:
    """What a person asks first."""
    plan, workload = material.plan, material.subject.spec.workload
    prediction, degrees = plan.prediction, plan.degrees
    fullest = max(stage.total for stage in plan.memory)
    usable = format_bytes(plan.hardware.usable_bytes)
    replicas = "" if plan.replicas == 1 else f" × {plan.replicas:,} replicas"
    yield Tile(
        "GPUs",
        f"{degrees.world:,}{replicas}",
        f"ep {degrees.ep} · tp {degrees.tp} · pp {degrees.pp}, in {plan.slots:,} {'pod' if plan.slots == 1 else 'pods'} of {plan.ranks_per_slot}",
    )
    yield Tile(
        "fullest rank", format_bytes(fullest), f"of {usable} usable{', KV cache included' if material.serves else ''}"
    )
    if not material.serves:
        return
    for name, target in (("ttft", workload.ttft), ("tpot", workload.tpot)):
        predicted, between = getattr(prediction, name), getattr(prediction, f"{name}_interval")
        yield Tile(name.upper(), format_seconds(predicted), f"{_target(predicted, target)}; {_likely(between)}")
    yield Tile(
        "tokens/s", f"{prediction.tokens_per_s:,.0f}", f"{prediction.tokens_per_s_per_gpu:,.1f} a GPU, output tokens"
    )


def _target(predicted: float, target: float | None) -> str:
    if target is None:
        return "no target given"
    verdict = "within" if predicted <= target else f"{predicted / target:.2g} times"
    return f"{verdict} the target of {format_seconds(target)}"


def _likely(between: tuple[float, float]) -> str:
    low, high = map(format_seconds, between)
    return f"80 % interval {low} to {high}"


_DOES = {"tp": "all-reduces", "ep": "dispatches and combines", "pp": "passes hidden states on"}


def _groups(material: Material) -> Iterator[Group]:
    each, layout = material.plan.ranks_per_slot, material.layout
    for dimension in reversed(layout.rank_order):
        groups = material.groups(dimension)
        spans = {len({rank // each for rank in group}) for group in groups}
        most = max(spans)
        where = "inside one pod" if most == 1 else f"over {ranges(spans)} pods"
        yield Group(dimension, _DOES[dimension], len(groups), layout.degree(dimension), where, ranges(groups[0]))


def _traffic(material: Material) -> Iterator[tuple[LinkTier, list[tuple[Flow, charts.Bar]]]]:
    """Each tier that is used, with what a rank sends over it and a bar of its bytes in a decode step."""
    most = max((flow.decode_bytes for flow in material.flows), default=0.0)
    colours = charts.hues(("tp all-reduce", "dispatch", "combine", "stage boundary"))
    for tier in material.subject.hardware.links:
        carried = [flow for flow in material.flows if flow.tier.scope == tier.scope]
        if carried:
            yield tier, [(flow, _flow_bar(flow, colours[flow.what], most)) for flow in carried]


def _flow_bar(flow: Flow, colour: int, most: float) -> charts.Bar:
    text = f"{format_bytes(flow.decode_bytes)} a rank and decode step"
    return charts.bar(flow.what, text, [(flow.what, flow.decode_bytes, colour, text)], most)


def _alike(memories: Sequence[StageMemory]) -> dict[tuple[int, ...], list[StageMemory]]:
    """Stages by their memory, those that are alike together."""
    found: dict[tuple[int, ...], list[StageMemory]] = {}
    for memory in memories:
        found.setdefault(tuple(memory.model_dump(exclude={"pp"}).values()), []).append(memory)
    return found


def _stage_name(stages: Sequence[StageMemory]) -> str:
    return ("stage " if len(stages) == 1 else "stages ") + ranges(stage.pp for stage in stages)


def _memory_bars(material: Material) -> list[charts.Bar]:
    whole = material.plan.hardware.memory_bytes
    return [_memory_bar(alike, whole, tuple(MEMORY_NAMES)) for alike in _alike(material.plan.memory).values()]


def _closer_memory_bars(material: Material) -> list[charts.Bar]:
    """Everything but the KV cache, on the scale of the stage that has most of it; none where there is no KV cache."""
    most = max(stage.total - stage.kv_cache for stage in material.plan.memory)
    if not any(stage.kv_cache for stage in material.plan.memory):
        return []
    parts = tuple(part for part in MEMORY_NAMES if part != "kv_cache")
    return [_memory_bar(alike, most, parts) for alike in _alike(material.plan.memory).values()]


def _memory_bar(alike: Sequence[StageMemory], whole: float, parts: Sequence[str]) -> charts.Bar:
    colours = charts.hues(tuple(MEMORY_NAMES.values()))
    sizes = {MEMORY_NAMES[part]: getattr(alike[0], part) for part in parts}
    sized = [(name, float(size), colours[name], format_bytes(size)) for name, size in sizes.items() if size]
    return charts.bar(_stage_name(alike), format_bytes(sum(sizes.values())), sized, whole)


def _memory_rows(material: Material) -> dict[str, Any]:
    columns = [alike[0] for alike in _alike(material.plan.memory).values()]
    rows = [(name, [getattr(stage, part) for stage in columns]) for part, name in MEMORY_NAMES.items()]
    names = [_stage_name(alike) for alike in _alike(material.plan.memory).values()]
    kept = [(name, sizes) for name, sizes in rows if any(sizes)]
    return {"stages": names, "rows": kept, "totals": [stage.total for stage in columns]}


def _parts(times: TimeParts) -> list[tuple[str, float]]:
    return [(name, value) for name, value in times.model_dump().items() if name != "total"]


def _time_bars(material: Material) -> list[charts.Bar]:
    prediction = material.plan.prediction
    named = (("decode step", prediction.tpot_parts), ("first token", prediction.ttft_parts))
    colours = charts.hues(tuple(TIME_MEANINGS))
    found = []
    for name, times in named:
        parts = [
            (part.replace("_", " "), value, colours.get(part, 0), format_seconds(value))
            for part, value in _parts(times)
            if value
        ]
        found.append(charts.bar(name, format_seconds(times.total), parts, times.total))
    return found


def _time_rows(material: Material) -> Iterator[tuple[str, str, int, float, float, float, float]]:
    prediction, colours = material.plan.prediction, charts.hues(tuple(TIME_MEANINGS))
    decode, prefill = prediction.tpot_parts, prediction.ttft_parts
    for part, value in _parts(decode):
        other = getattr(prefill, part)
        if value or other:
            name, meaning = part.replace("_", " "), TIME_MEANINGS.get(part, "")
            yield name, meaning, colours.get(part, 0), value, value / decode.total, other, other / prefill.total


def _fronts(material: Material) -> tuple[charts.Plot, ...]:
    found = material.alternatives
    return () if found is None or found.result is None else tuple(_front(material, found, of) for of in TARGETS)


def _front(material: Material, found: Alternatives, target: Target) -> charts.Plot:
    """The front at any load over one target, the layouts at the manifest's load among it."""
    assert found.result is not None
    front, name = found.front(target), target.upper()
    points = [
        charts.Point(getattr(point, target), point.tokens_per_s_per_gpu, _told(point), _kind(point in front))
        for point in found.result.front
    ]
    best, prediction = found.result.best, material.plan.prediction
    points.append(
        charts.Point(getattr(best, target), best.tokens_per_s_per_gpu, f"best, {_told(best)}", "best", "best")
    )
    told = f"this plan: {name} {format_seconds(getattr(prediction, target))}"
    rate = prediction.tokens_per_s_per_gpu
    points.append(charts.Point(getattr(prediction, target), rate, told, "planned", "this plan"))
    quickest, densest = front[0], front[-1]
    return charts.scatter(
        f"Tokens a second and GPU over {name}, at any load",
        f"The front runs from {_told(quickest)}, to {_told(densest)}; {told}, {rate:,.1f} tokens/s a GPU",
        f"{name}, logarithmic",
        "tokens/s a GPU",
        points,
        format_seconds,
        lambda rate: f"{rate:,.6g}",
        getattr(material.subject.spec.workload, target),
    )


def _kind(on_front: bool) -> str:  # noqa: FBT001  # a fact of a point, no switch
    return "best" if on_front else "other"


def _told(found: Found) -> str:
    return (
        f"{describe(found)} at {found.concurrency:,} requests: TPOT {format_seconds(found.tpot)}, "
        f"TTFT {format_seconds(found.ttft)}, {found.tokens_per_s_per_gpu:,.1f} tokens/s a GPU"
    )


def _front_rows(material: Material) -> tuple[tuple[str, Found], ...]:
    """Points that are on the front over TPOT or TTFT, with the targets over which they are, by TPOT."""
    found = material.alternatives
    if found is None:
        return ()
    over: dict[Found, list[str]] = {}
    for target in TARGETS:
        for point in found.front(target):
            over.setdefault(point, []).append(target.upper())
    return tuple((", ".join(over[point]), point) for point in sorted(over, key=lambda point: point.tpot))


_KNOBS = {
    "concurrency": ("requests at once", ("tpot", "tokens_per_s")),
    "input_tokens": ("prompt tokens", ("ttft", "tpot")),
    "output_tokens": ("output tokens", ("tpot", "tokens_per_s")),
}
_METRICS = {"ttft": "TTFT", "tpot": "TPOT", "tokens_per_s": "tokens/s"}


def _sweeps(material: Material) -> Iterator[SweepView]:
    for sweep in material.sweeps:
        name, metrics = _KNOBS[sweep.knob]
        rows = tuple(
            (
                f"{sample.value:,}",
                format_seconds(sample.prediction.ttft),
                format_seconds(sample.prediction.tpot),
                f"{sample.prediction.tokens_per_s:,.0f}",
                f"{sample.prediction.batch_per_shard:,}",
            )
            if sample.prediction
            else (f"{sample.value:,}", sample.why_not)
            for sample in sweep.samples
        )
        yield SweepView(name, sweep.given, rows, tuple(_sweep_plot(sweep, name, metric) for metric in metrics))


def _sweep_plot(sweep: Any, name: str, metric: str) -> charts.Plot:
    show = _compact if metric == "tokens_per_s" else format_seconds
    points = []
    for sample in sweep.samples:
        y = getattr(sample.prediction, metric) if sample.prediction else None
        kind = "planned" if sample.value == sweep.given else "other"
        text = f"{sample.value:,} {name}: {_METRICS[metric]} {'none' if y is None else show(y)}"
        points.append(charts.Point(sample.value, y, text, kind))
    ends = [point for point in points if point.y is not None]
    told = f"from {ends[0].text} to {ends[-1].text}" if ends else "no value can be planned"
    return charts.lines(f"{_METRICS[metric]} over {name}", told, name, _METRICS[metric], points, _compact, show)


def _compact(value: float) -> str:
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if value >= scale * 10:
            return f"{value / scale:.3g}{unit}"
    return f"{value:,.4g}"


def _judged(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """Those that do not hold, and those that do."""
    return [v for v in verdicts if v.judgement != "holds"], [v for v in verdicts if v.judgement == "holds"]
