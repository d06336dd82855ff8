"""The serving half of the fit: measured TTFT and TPOT as columns, and the few times of engines that describe them.

An engine's time is one common to all engines times a factor of its own, which a prior holds near 1; so an engine or a
model without data borrows from the others.
"""

import copy
import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fitting.least_squares import Vector, minimise
from moe_plan.cost.constants import make_constants, make_engines
from moe_plan.cost.kernels import Setting
from moe_plan.cost.points import Point, find_hardware, parse_point, point_case, point_setting, read_shape
from moe_plan.cost.serving import forecast
from moe_plan.cost.step import Case

TIMES = ("layer_s", "prompt_layer_s", "request_s", "first_token_layer_s")
"""What is fitted of an engine."""

SHARED = (("routing", "unevenness"),)
"""What is fitted besides, for all engines together."""

_OWN = 0.25
"""Standard deviation, in logarithms, of an engine's own factor."""
_COMMON = 1.0
"""The same of a common time, or of what is shared, about its start."""
_TTFT_WEIGHT = 0.3
"""A TTFT says less: it varies more from run to run."""


@dataclass(frozen=True)
class Group:
    """Points of one model, GPU and engine, as columns."""

    setting: Setting
    case: Case
    points: tuple[Point, ...]
    ttft: Vector
    """Measured, in seconds."""
    tpot: Vector

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.setting.engine.name


def read_groups(path: Path) -> list[Group]:
    """The serving points of a file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    grouped: dict[tuple[str, ...], list[tuple[Point, float, float]]] = defaultdict(list)
    for row in rows:
        point = parse_point(row)
        key = (point.model, point.system, point.engine, point.gemm_format, point.moe_format)
        grouped[key].append((point, float(row["ttft_ms"]) / 1e3, float(row["tpot_ms"]) / 1e3))
    return [_group(members) for members in grouped.values()]


def _group(members: Sequence[tuple[Point, float, float]]) -> Group:
    points = tuple(point for point, _, _ in members)
    hardware = find_hardware(points[0].system)
    shape, _ = read_shape(points[0], None)
    return Group(
        setting=point_setting(points[0], shape, hardware),
        case=stack([point_case(point, shape, hardware) for point in points]),
        points=points,
        ttft=np.array([ttft for _, ttft, _ in members]),
        tpot=np.array([tpot for _, _, tpot in members]),
    )


def stack(items: Sequence[Any]) -> Any:
    """Records of numbers as one record of columns; what is no number must be the same in all.

    A tier of the network that one item spans and another does not has a fanout of 1 in the other.
    """
    first = items[0]
    if is_dataclass(first) and not isinstance(first, type):
        return replace(
            first,
            **{field.name: stack([getattr(item, field.name) for item in items]) for field in fields(first)},
        )
    if isinstance(first, tuple):
        longest = max(items, key=len)
        return tuple(
            stack([item[i] if len(item) > i else _alone(longest[i]) for item in items]) for i in range(len(longest))
        )
    if isinstance(first, int | float) and not isinstance(first, bool):
        return np.array(items, dtype=float)
    assert all(item == first for item in items)
    return first


def _alone(span: Any) -> Any:
    return replace(span, fanout=1)


def outcomes(group: Group, fitted: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[Vector, Vector]:
    """Logarithms of predicted over measured TTFT and TPOT with the given constants."""
    engines = make_engines(data["engines"], fitted)
    setting = replace(group.setting, constants=make_constants(data["constants"], fitted), engine=engines[group.engine])
    found = forecast(setting, group.case)
    return np.log(found.ttft.total / group.ttft), np.log(found.tpot.total / group.tpot)


def fit_engines(groups: Sequence[Group], fitted: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The fitted constants with the engines' times, and what they share, made from these groups."""
    engines = sorted({group.engine for group in groups})
    owns = len(TIMES) * len(engines)
    start = [data["start"][name] for name in TIMES] + [fitted[section][name] for section, name in SHARED] + [1.0] * owns
    widths = np.array([_COMMON] * (len(TIMES) + len(SHARED)) + [_OWN] * owns)

    def residuals(vector: Vector) -> Vector:
        tried = with_times(fitted, vector, engines, data)
        parts = [
            np.concatenate([tpot, _TTFT_WEIGHT * ttft]) for ttft, tpot in (outcomes(g, tried, data) for g in groups)
        ]
        return np.concatenate([*parts, (np.log(vector) - np.log(start)) / widths])

    return with_times(fitted, minimise(residuals, start), engines, data)


def with_times(
    fitted: Mapping[str, Any], vector: Vector, engines: Sequence[str], data: Mapping[str, Any]
) -> dict[str, Any]:
    """The constants with what a vector holds: common times, what is shared, then each engine's factors on the times."""
    made = copy.deepcopy(dict(fitted))
    common = dict(zip(TIMES, map(float, vector), strict=False))
    for (section, name), value in zip(SHARED, vector[len(TIMES) :], strict=False):
        made[section][name] = float(value)
    made["engines"] = {name: dict(common) for name in data["fitted_engines"]}
    for number, name in enumerate(engines):
        own = vector[len(SHARED) + len(TIMES) * (number + 1) :]
        made["engines"][name] = {time: common[time] * float(own[i]) for i, time in enumerate(TIMES)}
    return made
