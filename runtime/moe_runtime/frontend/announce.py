"""What the server tells at its start: the plan in a line, a line a stage, and what to paste once it is ready."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from moe_plan.layout import Coordinate, Layout
from moe_plan.plan import Plan, Stage

MOST_RANGES = 4
"""Ranges of ranks that are spelt out before they are summed up."""


def plan_lines(plan: Plan, device: str, checkpoint: Path | None) -> Iterator[str]:
    """The plan in a line, each stage in one, and what comes next."""
    degrees = plan.degrees
    weights = f"weights of {checkpoint}" if checkpoint else "random weights"
    layout = f"EP{degrees.ep}·TP{degrees.tp}·PP{degrees.pp}"
    yield f"{plan.name}: {plan.model.name} on {degrees.world} {device} ranks, {layout}, {weights}"
    for stage in plan.stages:
        yield _stage_line(plan, stage)
    yield f"starting {degrees.world} ranks"


def paste_line(url: str, prompt: str, has_key: str | None) -> str:
    """A command that asks for a first answer. `prompt` is JSON."""
    key = ' -H "Authorization: Bearer $MOE_API_KEY"' if has_key else ""
    body = f'{{"prompt": {prompt}, "max_tokens": 32}}'
    return f"curl {url}/completions -H 'Content-Type: application/json'{key} -d '{body}'"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ranges: 0–3, 8–11."""
    starts = [n for i, n in enumerate(numbers) if i == 0 or numbers[i - 1] != n - 1]
    ends = [n for i, n in enumerate(numbers) if i == len(numbers) - 1 or numbers[i + 1] != n + 1]
    parts = [f"{start}–{end}" if end > start else str(start) for start, end in zip(starts, ends, strict=True)]
    if len(parts) > MOST_RANGES:
        return f"{', '.join(parts[:2])}, …, {parts[-1]}"
    return ", ".join(parts)


def process_age_s() -> float:
    """Seconds since this process was started, before any exec; to 0.01 s."""
    # Field 22 of /proc/PID/stat, counted after the command's closing parenthesis: proc(5).
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _stage_line(plan: Plan, stage: Stage) -> str:
    degrees = plan.degrees
    layout = Layout(degrees.ep, degrees.tp, degrees.pp, plan.rank_order)
    ranks = layout.group(("ep", "tp"), layout.rank(Coordinate(stage.pp, 0, 0)))
    slots = len({rank // plan.ranks_per_slot for rank in ranks})
    last = stage.first_layer + stage.layers - 1
    layers = f"layers {stage.first_layer}–{last}" if stage.layers > 1 else f"layer {last}"
    return f"stage {stage.pp}: {layers}, ranks {ranges(ranks)}, {slots} slot{'s' if slots > 1 else ''}"
