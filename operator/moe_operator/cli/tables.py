"""Plans and audits as lines of text that fit a terminal of 100 columns."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from moe_plan.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from moe_plan.plan import Plan, PlannedLoads, StageMemory, TimeParts

WIDTH = 100

_MEMORY_PARTS = (
    ("attention", "attention"),
    ("experts", "experts"),
    ("redundant_experts", "redundant experts"),
    ("shared_experts", "shared experts"),
    ("dense_ffn", "dense FFN"),
    ("embedding", "embedding"),
    ("head", "head"),
    ("other_weights", "norms, routers"),
    ("activations", "activations"),
    ("communication", "communication"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("kv_cache", "KV cache"),
    ("total", "total"),
)
_TIME_PARTS = (
    "compute",
    "memory",
    "tp_all_reduce",
    "dispatch",
    "combine",
    "pp_send",
    "pp_bubble",
    "overhead",
    "queueing",
    "total",
)


def micro_batches(count: int) -> str:
    """So many micro-batches, in words."""
    return "1 micro-batch" if count == 1 else f"{count:,} micro-batches"


def table(rows: Iterable[Sequence[str]], *, header: Sequence[str]) -> list[str]:
    """Aligned columns: the first to the left, the others to the right."""
    cells = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return [lines[0].rstrip(), "  ".join("─" * width for width in widths), *(line.rstrip() for line in lines[1:])]


def plan_lines(plan: "Plan") -> list[str]:
    """What a person wants to know of a plan."""
    return [*_head(plan), "", *_stages(plan), "", *_memory(plan), "", *_prediction(plan), *_warnings(plan)]


def _head(plan: "Plan") -> list[str]:
    degrees, model, experts, kv = plan.degrees, plan.model, plan.experts, plan.kv_cache
    copies = f" + {experts.redundant} redundant" if experts.redundant else ""
    facts = (
        (
            "model",
            f"{model.name}, {format_count(model.total_params)} parameters, {format_count(model.active_params)} active",
        ),
        ("formats", f"{model.dtype} weights, {model.compute_dtype} arithmetic, {model.kv_cache_dtype} KV cache"),
        (
            "layout",
            f"ep {degrees.ep} · tp {degrees.tp} · pp {degrees.pp} = {degrees.world} ranks of {plan.hardware.name}",
        ),
        (
            "ranks",
            f"numbered {', '.join(plan.rank_order)}, outermost first; {micro_batches(plan.micro_batches)} a step",
        ),
        ("experts", f"{experts.logical}{copies}, {experts.per_rank} a rank in each MoE layer"),
        *(() if plan.expert_loads is None else (("loads", _loads(plan.expert_loads)),)),
        (
            "pods",
            f"{plan.slots} a replica, {plan.ranks_per_slot} ranks each; replicas: {plan.replicas}; engine {plan.engine}",
        ),
        ("requests", f"up to {plan.limits.max_model_length:,} tokens each"),
        (
            "KV cache",
            f"{kv.tokens_per_shard:,} tokens a shard: {kv.requests_per_shard:,} requests of the workload's length",
        ),
        ("hash", plan.hash[:16]),
    )
    return [f"{plan.name}: the plan holds", *(f"  {name:<10}{fact}" for name, fact in facts)]


def _loads(loads: "PlannedLoads") -> str:
    return (
        f"the fullest rank has {loads.imbalance:.2f} times the mean, {loads.imbalance_without:.2f} if dealt without "
        f"them; {format_count(loads.tokens)} tokens"
    )


def _stages(plan: "Plan") -> list[str]:
    rows = []
    for stage in plan.stages:
        ends = [name for name, held in (("embedding", stage.embedding), ("head", stage.head)) if held]
        layers = f"{stage.first_layer}–{stage.first_layer + stage.layers - 1}"
        rows.append((f"stage {stage.pp}", layers, ", ".join(ends)))
    return table(rows, header=("stage", "layers", "and"))


def _memory(plan: "Plan") -> list[str]:
    """Memory of the fullest rank, a column a stage; stages that are alike share one."""
    columns: dict[tuple[int, ...], list[int]] = {}
    for memory in plan.memory:
        columns.setdefault(tuple(getattr(memory, part) for part, _ in _MEMORY_PARTS), []).append(memory.pp)
    by_column = [plan.memory[stages[0]] for stages in columns.values()]
    rows = [
        (label, *(_share(getattr(memory, part), memory) for memory in by_column))
        for part, label in _MEMORY_PARTS
        if any(getattr(memory, part) for memory in by_column)
    ]
    header = ("memory of the fullest rank", *(_stage_names(stages) for stages in columns.values()))
    usable = f"usable {format_bytes(plan.hardware.usable_bytes)} of {format_bytes(plan.hardware.memory_bytes)}"
    return [*table(rows, header=header), usable] if len(by_column) <= 4 else [*_narrow_memory(plan.memory), usable]


def _narrow_memory(memories: "Sequence[StageMemory]") -> list[str]:
    rows = [
        (
            f"stage {m.pp}",
            *(
                format_bytes(size)
                for size in (m.total - m.kv_cache - m.activations, m.activations, m.kv_cache, m.total)
            ),
        )
        for m in memories
    ]
    return table(rows, header=("memory of the fullest rank", "weights and buffers", "activations", "KV cache", "total"))


def _stage_names(stages: list[int]) -> str:
    if len(stages) == 1:
        return f"stage {stages[0]}"
    return (
        f"stages {stages[0]}–{stages[-1]}"
        if stages[-1] - stages[0] == len(stages) - 1
        else f"stages {','.join(map(str, stages))}"
    )


def _share(size: int, memory: "StageMemory") -> str:
    return f"{format_bytes(size)} {size / memory.total:6.1%}" if memory.total else format_bytes(size)


def _prediction(plan: "Plan") -> list[str]:
    prediction = plan.prediction
    parts = [(name, prediction.ttft_parts, prediction.tpot_parts) for name in _TIME_PARTS]
    rows = [
        (name.replace("_", " "), _part(name, ttft), _part(name, tpot))
        for name, ttft, tpot in parts
        if getattr(ttft, name) or getattr(tpot, name)
    ]
    speed = f"{prediction.tokens_per_s:,.0f} tokens/s ({prediction.tokens_per_s_per_gpu:,.1f} a GPU)"
    return [
        f"predicted: TTFT {format_seconds(prediction.ttft)}, TPOT {format_seconds(prediction.tpot)}, {speed}",
        f"8 times of 10 TTFT is {_range(prediction.ttft_interval)}, TPOT {_range(prediction.tpot_interval)}",
        f"with {prediction.batch_per_shard} requests decoded together on a shard",
        *table(rows, header=("where the time goes", "prefill", "decode step")),
    ]


def _range(interval: tuple[float, float]) -> str:
    return f"{format_seconds(interval[0])} to {format_seconds(interval[1])}"


def _part(name: str, parts: "TimeParts") -> str:
    return format_seconds(getattr(parts, name)) if getattr(parts, name) else "–"


def _warnings(plan: "Plan") -> list[str]:
    lines = [
        line
        for warning in plan.warnings
        for line in textwrap.wrap(f"warning: {warning}", WIDTH, subsequent_indent="  ")
    ]
    return ["", *lines] if lines else []
