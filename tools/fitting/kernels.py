"""The kernel half of the fit: measured MoE kernels against the formula of the routed experts.

Fitted are shares of the peaks by number format and how routing skews load. Every engine's kernels count alike: what one
engine's do better than another's is left to its serving points.
"""

import copy
import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fitting.least_squares import Vector, minimise
from moe_plan.config.quantization import COMPUTE_FORMATS, MXFP4, float8
from moe_plan.cost.constants import make_constants, make_engines
from moe_plan.cost.kernels import Experts, Load, Setting, routed_experts_s
from moe_plan.cost.points import find_hardware
from moe_plan.model import Attention, Formats, Layer, ModelShape, MoeFfn, NumberFormat

FITTED = (
    ("kernels", "memory_efficiency"),
    ("kernels", "wide_efficiency"),
    ("kernels", "float8_efficiency"),
    ("kernels", "float4_efficiency"),
    ("kernels", "widened_efficiency"),
    ("kernels", "widened_memory"),
    ("kernels", "narrow_width"),
)

_SHAPES = {
    "DeepSeek-V3 MoE layer": (256, 8, 7168, 2048),
    "Mixtral-8x7B MoE layer": (8, 2, 4096, 14336),
    "Qwen3-235B-A22B MoE layer": (128, 8, 4096, 1536),
    "Qwen3-30B-A3B MoE layer": (128, 8, 2048, 768),
    "gpt-oss-120b MoE layer": (128, 4, 2880, 2880),
}
"""Experts, top-k, hidden width and expert width, from the models' config.json."""

_FORMATS: dict[str, NumberFormat] = {
    "bfloat16": COMPUTE_FORMATS["bfloat16"],
    "fp8": float8(1),
    "fp8_block": float8(),
    "nvfp4": MXFP4,
    "w4a16_mxfp4": replace(MXFP4, name="int4"),  # 4-bit weights against 16-bit rows: widened on any GPU
}
_GPUS = {"H100 SXM": "h100-sxm", "H200 SXM": "h200-sxm", "B200 SXM": "b200-sxm", "GB200 NVL72": "gb200-nvl72"}
_MOST = {"wide_efficiency": 1.0, "memory_efficiency": 1.0}
"""No kernel exceeds a peak, whatever describes a few of them best."""
_EVEN, _DRAWN = 0.01, 0.4
"""Unevenness of the measured routings: none, and that of a power law of exponent 1.01, whose 64 tokens of top-k 8 take
0.92 (128 experts) and 0.76 (256 experts) of the time of balanced ones in kernels that the weights' bytes decide."""
_START_S = 30e-6
"""Where the fit of a kernel's fixed time begins; a nuisance here, part of a layer's fixed time in serving."""


@dataclass(frozen=True)
class Batch:
    """Kernels of one model, GPU and format, as columns."""

    name: str
    gpu: str
    format: str
    routing: str
    setting: Setting
    layer: Layer
    experts: Experts
    load: Load
    measured: Vector
    """Seconds."""


def read_batches(paths: Iterable[Path], data: Mapping[str, Any], fitted: Mapping[str, Any]) -> list[Batch]:
    """The MoE kernels of some files."""
    grouped: dict[tuple[str, str, str, str], list[dict[str, str]]] = defaultdict(list)
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["phase"] == "kernel_moe" and row["model"] in _SHAPES and "power_law_1.2" not in row["notes"]:
                    routing = row["notes"].rpartition("routing ")[2]
                    grouped[row["model"], row["gpu"], row["precision"], routing].append(row)
    return [_batch(*key, rows, data, fitted) for key, rows in sorted(grouped.items())]


def _batch(
    model: str,
    gpu: str,
    precision: str,
    routing: str,
    rows: Sequence[dict[str, str]],
    data: Mapping[str, Any],
    fitted: Mapping[str, Any],
) -> Batch:
    logical, top_k, hidden, width = _SHAPES[model]
    stored, plain = _FORMATS[precision], COMPUTE_FORMATS["bfloat16"]
    attention = Attention("gqa", 1, 1, 128, 128, 0, 0, 0)
    layer = Layer(attention, MoeFfn(logical, top_k, width, 3, 3 * hidden * width, 0, 0, 0), 0)
    shape = ModelShape(model, "", hidden, 1, hidden, hidden, 0, (layer,), 1, Formats(stored, plain, plain, "bfloat16"))
    engine = make_engines(data["engines"], fitted)["tensorrt-llm"]
    setting = Setting(
        shape,
        find_hardware(_GPUS[gpu]),
        engine,
        make_constants(data["constants"], fitted),
        2,
        8192,
    )
    ep, tp, tokens = (np.array(values, dtype=float) for values in zip(*map(_degrees, rows), strict=True))
    experts = Experts(logical, 0, logical / ep, ep, tp, 1 / ep, imbalance=1.0 if routing == "balanced" else None)
    zero = np.zeros_like(tokens)
    measured = np.array([float(row["value"]) for row in rows]) * 1e-6
    return Batch(
        model, gpu, precision, routing, setting, layer, experts, Load(zero, 1.0, tokens, 1.0, tokens), measured
    )


def _degrees(row: Mapping[str, str]) -> tuple[int, int, int]:
    return int(row["ep"]), int(row["tp"]), int(row["concurrency_or_batch"].split()[0])


def outcomes(batch: Batch, fitted: Mapping[str, Any], data: Mapping[str, Any], start_s: float) -> Vector:
    """Logarithms of predicted over measured times."""
    constants = make_constants(data["constants"], fitted)
    spread = _EVEN if batch.routing == "balanced" else _DRAWN
    constants = replace(constants, routing=replace(constants.routing, unevenness=spread))
    time = routed_experts_s(batch.layer, batch.experts, batch.load, replace(batch.setting, constants=constants))
    return np.log((time.compute_s + time.memory_s + start_s) / batch.measured)


def fit_spread(batches: Sequence[Batch], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The constants with routing.spread from what skewed routing costs where arithmetic decides: 8,192 tokens, ep > 1.

    The median over pairs of kernels that differ in routing alone of (skewed / balanced - 1) / sqrt(2 ln(ep) / per_rank).
    """
    even = {
        (b.name, b.gpu, b.format, *point): time
        for b in batches
        if b.routing == "balanced"
        for point, time in _long(b).items()
    }
    found = [
        (time / even[key] - 1) / math.sqrt(2 * math.log(point[0]) / (b.experts.logical / point[0]))
        for b in batches
        if b.routing != "balanced"
        for point, time in _long(b).items()
        if (key := (b.name, b.gpu, b.format, *point)) in even
    ]
    made = copy.deepcopy(dict(fitted))
    made["routing"]["spread"] = float(np.median(found))
    return made


def _long(batch: Batch) -> dict[tuple[float, float], float]:
    """Seconds of the kernels of 8,192 tokens by ep (above 1) and tp."""
    points = zip(batch.experts.ep, batch.experts.tp, batch.load.stage_tokens, batch.measured, strict=True)
    return {(ep, tp): time for ep, tp, tokens, time in points if tokens == 8192 and ep > 1}


def fit_kernels(
    batches: Sequence[Batch], fitted: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[dict[str, Any], float]:
    """The constants with those of the kernels fitted, and the fixed time of a kernel."""

    def made(vector: Vector) -> dict[str, Any]:
        tried = copy.deepcopy(dict(fitted))
        for (section, name), value in zip(FITTED, vector, strict=False):
            tried[section][name] = min(float(value), _MOST.get(name, math.inf))
        return tried

    def residuals(vector: Vector) -> Vector:
        tried = made(vector)
        return np.concatenate([outcomes(batch, tried, data, float(vector[-1])) for batch in batches])

    found = minimise(residuals, [*(fitted[section][name] for section, name in FITTED), _START_S])
    return made(found), float(found[-1])
