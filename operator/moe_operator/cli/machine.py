"""What this machine has: GPUs and free memory."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moe_plan.errors import ManifestError, Violation
from moe_plan.units import format_bytes

if TYPE_CHECKING:
    from moe_plan.plan import Plan

RANK_BYTES = 25e6
"""Private memory of a CPU rank beyond its share of the model, measured with 128 ranks."""


def choose_device(asked: str, ranks: int) -> str:
    """'cuda' or 'cpu'; auto takes the GPUs where the machine has one a rank."""
    if asked not in {"auto", "cpu", "cuda"}:
        raise typer.BadParameter(f"{asked} is not a device; auto, cpu and cuda are", param_hint="--device")
    if asked != "auto":
        return asked
    return "cuda" if _gpu_count() >= ranks else "cpu"


def local_accelerator() -> str:
    """Catalogue name of this machine's GPU. Raises ManifestError when it has none, or one that the catalogue lacks."""
    from moe_plan.catalogue.hardware import hardware_names

    models = [
        line.split(":", 1)[1].strip()
        for path in Path("/proc/driver/nvidia/gpus").glob("*/information")
        for line in path.read_text().splitlines()
        if line.startswith("Model:")
    ]
    if not models:
        raise ManifestError((Violation("--device", "NoGpu", "this machine has no NVIDIA GPU; use --device cpu"),))
    words = models[0].lower().replace("-", " ").split()
    matches = [name for name in hardware_names() if name.split("-")[0] in words]
    if not matches:
        message = f"the GPU {models[0]} is not in the catalogue ({', '.join(hardware_names())})"
        raise ManifestError((Violation("--device", "UnknownGpu", message),))
    return matches[0]


def check_memory(plan: "Plan") -> None:
    """Raises ManifestError when the CPU ranks of a plan need more memory than the machine has free."""
    ranks_of_stage = plan.degrees.world // plan.degrees.pp
    model = sum(stage.total - stage.kv_cache for stage in plan.memory) * ranks_of_stage
    needed, free = model + RANK_BYTES * plan.degrees.world, _free_bytes()
    if needed > free:
        message = f"{plan.degrees.world} CPU ranks need about {format_bytes(needed)}, and this machine has {format_bytes(free)} free"
        raise ManifestError(
            (Violation(plan.name, "NotEnoughMemory", message, "narrow the widths further with --narrow"),)
        )


def _gpu_count() -> int:
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))


def _free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux has MemAvailable in /proc/meminfo")
