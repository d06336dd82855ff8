"""Fits the cost model's constants to measured kernels and serving points, and prints how well they hold where they were not fitted.

`tools/fit.py` prints; with --write, which `make fit` gives, it also writes operator/moe_plan/cost/fitted.toml, or the
FILE named. Same points, same file.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from fitting.collectives import family_errors, fit_dense, fit_family, read_families
from fitting.kernels import fit_kernels, fit_spread, read_batches
from fitting.kernels import outcomes as kernel_errors
from fitting.least_squares import Vector
from fitting.serving import Group, fit_engines, outcomes, read_groups

from moe_plan.cost.constants import read_data

_ROOT = Path(__file__).resolve().parent.parent
_POINTS = _ROOT / "tools" / "calibration"
_FITTED = _ROOT / "operator" / "moe_plan" / "cost" / "fitted.toml"
_ENGINES = ("sglang", "tensorrt-llm", "vllm")
_COVERED = 80
"""Per cent of held-out points that an interval is to hold."""
_START = {
    "layer_s": 80e-6,
    "prompt_layer_s": 150e-6,
    "request_s": 15e-6,
    "first_token_layer_s": 1e-3,
}
"""Where the fit of an engine's times begins: 110 µs a layer is known of Hopper without graphs, with them less."""
_KERNEL_START: dict[str, Any] = {
    "kernels": {
        "memory_efficiency": 0.9,
        "dense_efficiency": 0.7,
        "wide_efficiency": 0.8,
        "float8_efficiency": 0.45,
        "float4_efficiency": 0.35,
        "widened_efficiency": 0.45,
        "widened_memory": 1.6,
        "narrow_width": 900.0,
    },
    "routing": {"spread": 1.6, "unevenness": 1.0},
    "all_reduce": {"custom_start": 0.85, "custom_rank": 0.04, "custom_second": 0.5, "custom_bandwidth": 0.6},
    "all_to_all": {
        "direct_messages": 4.0,
        "direct_bandwidth": 0.8,
        "staged_messages": 10.0,
        "staged_bandwidth": 0.9,
    },
    "engines": dict.fromkeys(_ENGINES, _START),
}


def main() -> None:
    """Fit, hold out, print; write when asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=_FITTED,
        metavar="FILE",
        help="write the constants, here if no FILE is named",
    )
    write = parser.parse_args().write
    data = {
        "constants": read_data("constants.toml"),
        "engines": read_data("engines.toml"),
        "fitted_engines": _ENGINES,
        "start": _START,
    }
    kernels = _kernels(data)
    groups = read_groups(_POINTS / "serving_points.csv")
    fitted = fit_engines(groups, kernels, data)
    print("\nserving points, fitted to all of them")
    _print_serving(groups, [outcomes(group, fitted, data) for group in groups])
    by_model = _held_out(groups, kernels, data, lambda group: group.setting.shape.name, "model")
    _held_out(groups, kernels, data, lambda group: group.setting.hardware.name, "GPU")
    _print_ranks(groups, by_model)
    fitted["interval"] = {
        name: [float(np.exp(-q)) for q in np.percentile(np.concatenate([pair[i] for pair in by_model]), _TAILS)]
        for i, name in enumerate(("ttft", "tpot"))
    }
    for name, (low, high) in fitted["interval"].items():
        print(f"{_COVERED} % of held-out {name.upper()} lie between {low:.2f} and {high:.2f} times the prediction")
    if write:
        write.write_text(_toml(fitted), encoding="utf-8")
        print(f"wrote {write}", file=sys.stderr)


_TAILS = [50 + _COVERED / 2, 50 - _COVERED / 2]
"""Percentiles of log(predicted / measured); the prediction's factors are their inverses."""


def _kernels(data: Mapping[str, Any]) -> dict[str, Any]:
    """Constants of kernels and collectives, each family fitted by itself."""
    fitted: dict[str, Any] = _KERNEL_START
    print(f"{'kernels':<48}{'points':>8}{'mean error':>12}{'median':>8}")
    for family in read_families(_POINTS / "kernels.csv"):
        fitted = fit_family(family, fitted, data)
        _print_line(family.name, family_errors(family, fitted, data))
    batches = read_batches([_POINTS / "kernels.csv", _POINTS / "kernels_more.csv"], data, fitted)
    fitted, start_s = fit_kernels(batches, fit_spread(batches, fitted), data)
    by_format: dict[str, list[Vector]] = defaultdict(list)
    for batch in batches:
        by_format[f"experts, {batch.format}, {batch.gpu}"].append(kernel_errors(batch, fitted, data, start_s))
    for name, errors in sorted(by_format.items()):
        _print_line(name, np.concatenate(errors))
    fitted, errors = fit_dense(_POINTS / "kernels.csv", fitted)
    _print_line("dense products, fp8, H800 SXM5", errors)
    return fitted


def _print_line(name: str, errors: Vector) -> None:
    print(f"{name:<48}{len(errors):>8}{_mean(errors):>12.1%}{_median(errors):>8.1%}")


def _held_out(
    groups: Sequence[Group], kernels: Mapping[str, Any], data: Mapping[str, Any], key: Callable[[Group], str], what: str
) -> list[tuple[Vector, Vector]]:
    """Errors of each group with the constants fitted to the groups of all other models (or GPUs)."""
    made = {
        value: fit_engines([group for group in groups if key(group) != value], kernels, data)
        for value in sorted({key(group) for group in groups})
    }
    found = [outcomes(group, made[key(group)], data) for group in groups]
    print(f"\nleave one {what} out")
    _print_serving(groups, found)
    return found


def _print_serving(groups: Sequence[Group], found: Sequence[tuple[Vector, Vector]]) -> None:
    print(f"{'':<48}{'points':>8}{'TPOT mean':>12}{'TPOT median':>13}{'TTFT median':>13}")
    views: dict[str, Callable[[Group], str]] = {
        "model": lambda group: group.setting.shape.name,
        "GPU": lambda group: group.setting.hardware.name,
        "engine": lambda group: group.engine,
    }
    for view, key in views.items():
        for value in sorted({key(group) for group in groups}):
            pairs = [pair for group, pair in zip(groups, found, strict=True) if key(group) == value]
            _print_pairs(f"{view} {value}", pairs)
    _print_pairs("all", found)


def _print_pairs(name: str, pairs: Iterable[tuple[Vector, Vector]]) -> None:
    ttft, tpot = (np.concatenate(errors) for errors in zip(*pairs, strict=True))
    print(f"{name:<48}{len(tpot):>8}{_mean(tpot):>12.1%}{_median(tpot):>13.1%}{_median(ttft):>13.1%}")


def _print_ranks(groups: Sequence[Group], found: Sequence[tuple[Vector, Vector]]) -> None:
    """Kendall's tau over layouts that served the same model, GPU, engine, lengths and concurrency, held out by model."""
    for which, name in ((1, "TPOT"), (0, "TTFT")):
        agree = total = 0
        for group, pair in zip(groups, found, strict=True):
            measured = (group.ttft, group.tpot)[which]
            predicted = measured * np.exp(pair[which])
            for i, j in _comparable(group):
                agree += int(np.sign(measured[i] - measured[j]) * np.sign(predicted[i] - predicted[j]))
                total += 1
        print(f"{'Kendall tau of layouts by ' + name:<48}{total:>8} pairs {agree / total:>11.2f}")


def _comparable(group: Group) -> Iterable[tuple[int, int]]:
    for i, j in combinations(range(len(group.points)), 2):
        one, other = group.points[i], group.points[j]
        if (one.isl, one.osl, one.concurrency) == (other.isl, other.osl, other.concurrency):
            yield i, j


def _mean(errors: Vector) -> float:
    return float(np.mean(np.abs(np.exp(errors) - 1)))


def _median(errors: Vector) -> float:
    return float(np.median(np.abs(np.exp(errors) - 1)))


def _toml(fitted: Mapping[str, Any]) -> str:
    """The file, its numbers to four digits, which is more than the points know."""
    lines = [
        "# Made by `make fit` from the points in tools/calibration; docs/cost-model.md says what each number means.",
        "# Do not edit: change the points, the model or tools/fit.py, and fit again.",
    ]
    for section, values in fitted.items():
        tables = values.items() if section == "engines" else [(None, values)]
        for name, table in tables:
            lines += ["", f"[{section}.{name}]" if name else f"[{section}]"]
            lines += [f"{key} = {_number(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _number(value: float | Sequence[float]) -> str:
    return f"[{', '.join(map(_number, value))}]" if isinstance(value, list) else f"{value:.4g}"


if __name__ == "__main__":
    main()
