"""The collectives' and dense products' part of the fit: measured all-reduces, all-to-alls and GEMMs against their formulas."""

import copy
import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fitting.least_squares import Vector, minimise
from moe_plan.cost.collectives import (
    custom_all_reduce_s,
    direct_all_to_all_s,
    group_spans,
    library_all_reduce_s,
    staged_all_to_all_s,
)
from moe_plan.cost.constants import Collectives, make_constants
from moe_plan.cost.points import find_hardware

Row = dict[str, str]
Formula = Callable[[Row, Collectives], float]

_GPUS = {"H100 SXM": "h100-sxm", "H200 SXM": "h200-sxm", "GB200 NVL72": "gb200-nvl72"}
_HIDDEN, _CHOICES = 7168, 8
"""Of DeepSeek-V3, whose shape the all-to-alls were measured with."""
_FLOAT8_ROW, _BFLOAT16_ROW = _HIDDEN * (1 + 4 / 128), _HIDDEN * 2.0
"""Bytes of a dispatched row: FP8 with a float32 scale for each 128 elements, as DeepEP sends it; or bfloat16."""
_H800_FLOAT8, _H800_BANDWIDTH = 1979e12, 3.35e12
"""NVIDIA H800 SXM: an H100's arithmetic and memory."""


@dataclass(frozen=True)
class Family:
    """Collectives that one formula describes."""

    name: str
    formula: Formula
    fitted: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


def read_families(path: Path) -> list[Family]:
    """The collectives of a kernel file by the formula that describes them."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def of(engine: str, *phases: str) -> tuple[Row, ...]:
        return tuple(row for row in rows if row["engine"].startswith(engine) and row["phase"] in phases)

    custom = tuple(("all_reduce", f"custom_{name}") for name in ("start", "rank", "second", "bandwidth"))
    direct = tuple(("all_to_all", f"direct_{name}") for name in ("messages", "bandwidth"))
    staged = tuple(("all_to_all", f"staged_{name}") for name in ("messages", "bandwidth"))
    both = ("comm_dispatch", "comm_combine")
    normal = (
        *of("DeepEP normal", *both),
        *(row for row in of("TRT-LLM NVLinkOneSided", *both) if row["precision"] == "BF16"),
    )
    return [
        Family("all-reduce, NCCL", _library, (), of("NCCL", "comm_all_reduce")),
        Family("all-reduce, custom kernels", _custom, custom, of("TRT-LLM 1.3.0rc20 AR", "comm_allreduce")),
        Family("all-to-all, direct (DeepEP low-latency)", _direct, direct, of("DeepEP low-latency", *both)),
        Family("all-to-all, staged (DeepEP normal, one-sided)", _staged, staged, normal),
    ]


def family_errors(family: Family, fitted: Mapping[str, Any], data: Mapping[str, Any]) -> Vector:
    """Logarithms of predicted over measured times."""
    collectives = make_constants(data["constants"], fitted).collectives
    return np.array([np.log(family.formula(row, collectives) / (float(row["value"]) * 1e-6)) for row in family.rows])


def fit_family(family: Family, fitted: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The constants with those of one family fitted."""

    def made(vector: Sequence[float] | Vector) -> dict[str, Any]:
        tried = copy.deepcopy(dict(fitted))
        for (section, name), value in zip(family.fitted, vector, strict=True):
            tried[section][name] = float(value)
        return tried

    if not family.fitted:
        return copy.deepcopy(dict(fitted))
    start = [fitted[section][name] for section, name in family.fitted]
    return made(minimise(lambda vector: family_errors(family, made(vector), data), start))


def fit_dense(path: Path, fitted: Mapping[str, Any]) -> tuple[dict[str, Any], Vector]:
    """The constants with kernels.dense_efficiency fitted to DeepGEMM's products, and the errors.

    Their depth K stands for the width that a rank has of a product.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "kernel_gemm"]
    m, n, k = (np.array([_side(row, name) for row in rows], dtype=float) for name in "MNK")
    measured = 2 * m * n * k / (np.array([float(row["value"]) for row in rows]) * 1e12)
    kernels = fitted["kernels"]

    def errors(vector: Vector) -> Vector:
        rate = _H800_FLOAT8 * vector[0] * k / (k + kernels["narrow_width"])
        traffic_s = (n * k + m * k + 2 * m * n) / (_H800_BANDWIDTH * kernels["memory_efficiency"])
        return np.log((2 * m * n * k / rate + traffic_s) / measured)

    found = minimise(errors, [kernels["dense_efficiency"]])
    made = copy.deepcopy(dict(fitted))
    made["kernels"]["dense_efficiency"] = min(1.0, float(found[0]))
    return made, errors(found)


def _side(row: Row, name: str) -> int:
    found = re.search(rf"\b{name}(\d+)", row["model"])
    assert found, row["model"]
    return int(found[1])


def _message_bytes(row: Row) -> float:
    return 2.0 * int(row["concurrency_or_batch"].partition("=")[2])


def _library(row: Row, of: Collectives) -> float:
    (span,) = _spans(row)
    return float(library_all_reduce_s(_message_bytes(row), span, of))


def _custom(row: Row, of: Collectives) -> float:
    (span,) = _spans(row)
    return float(custom_all_reduce_s(_message_bytes(row), span, of))


def _direct(row: Row, of: Collectives) -> float:
    return float(direct_all_to_all_s(_tokens(row), _row_bytes(row), _CHOICES, _spans(row), of))


def _staged(row: Row, of: Collectives) -> float:
    return float(staged_all_to_all_s(_tokens(row), _row_bytes(row), _CHOICES, _spans(row), of))


def _spans(row: Row) -> tuple[Any, ...]:
    gpus, hardware = int(row["num_gpus"]), find_hardware(_GPUS[row["gpu"]])
    if hardware.name.startswith("gb200"):  # NVLink joins the domain: one tier, whatever the nodes
        hardware = replace(hardware, links=hardware.links[1:])
    return group_spans(gpus, 1, gpus, hardware)


def _tokens(row: Row) -> int:
    return int(row["concurrency_or_batch"].split()[0])


def _row_bytes(row: Row) -> float:
    return _FLOAT8_ROW if row["phase"] == "comm_dispatch" and row["engine"].startswith("DeepEP") else _BFLOAT16_ROW
