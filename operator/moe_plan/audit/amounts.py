"""Numbers as documents write them: "~268MB", "85-95%", "<10ms", "26.16M", "GPUs [0-15]"; and how they are compared.

The units are in `units.toml`. An amount keeps how it was printed, since that bounds what it can claim: 8.5% is a
claim about anything from 8.45% to 8.55%.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from moe_plan.units import format_count, format_seconds

Comparison = Literal["=", "~", "<", ">"]

NUMBER = r"\d[\d,]{0,18}(?:\.\d{1,9})?"
TOLERANCE = 0.02
"""Share by which a claim may miss."""
TOLERANCE_ABOUT = 0.10
"""The same where the claim says about."""
MAX_MEMBERS = 4096

_MEMBERS = r"\[?\d{1,6}(?:\s?[-–]\s?\d{1,6}|(?:,\s?(?:GPU\s)?\d{1,6}){1,64})?\]?"
_PLAIN = {
    "index": r"\d{1,6}(?!\d)",
    "members": _MEMBERS + r"(?!\d)",
    "int": r"\d[\d,]{0,11}(?![\d.,]*\d|\s?%|[A-Za-z])",
}
_BEFORE: tuple[tuple[Comparison, str], ...] = (
    ("<", r"(?:<|≤|&lt;|below|under|less than|at most|up to)[\s=]*$"),
    (">", r"(?:>|≥|&gt;|above|over|more than|at least)[\s=]*$"),
    ("~", r"(?:~|≈|about|around|approximately|roughly|circa)\s*$"),
)


@dataclass(frozen=True, slots=True)
class Amount:
    """A number in the base unit of its dimension: bytes, FLOP, bytes/s, seconds, a count, a fraction."""

    dimension: str
    low: float
    high: float
    """Equal to `low` unless the document gives a range."""
    digit: float
    """Worth of the last digit printed."""
    binary: float
    """Factor that turns the decimal reading of the unit into the binary one; 1 where there is no doubt."""
    compare: Comparison


@cache
def _units() -> dict[str, dict[str, dict[str, float]]]:
    tables = tomllib.loads(files("moe_plan.audit").joinpath("units.toml").read_text(encoding="utf-8"))
    return {dimension: tables[table.get("like", dimension)] for dimension, table in tables.items()}


@cache
def hole(dimension: str) -> str:
    """Regular expression (no groups) of an amount of a dimension; `members` and `index` are dimensions too."""
    if dimension in _PLAIN:
        return _PLAIN[dimension]
    unit = "|".join(re.escape(name) for name in sorted(_units()[dimension], key=len, reverse=True) if name)
    if dimension == "count":
        return rf"{NUMBER}(?:\s?(?:{unit})(?![A-Za-z]))?(?![\d.,]*\d|\s?%)"
    if dimension == "fraction":
        return rf"(?:(?:{NUMBER}\s?[-–]\s?)?{NUMBER}\s?%|0?\.\d{{1,9}}(?!\d))"
    return rf"(?:{NUMBER}\s?[-–]\s?)?{NUMBER}\s?(?:{unit})(?![A-Za-z])"


def unit_of(dimension: str, text: str) -> tuple[float, float]:
    """Factor of the unit that ends a text, decimal and binary."""
    units = _units()[dimension]
    suffix = max((name for name in units if text.endswith(name)), key=len, default="")
    unit = units.get(suffix, {"factor": 1.0})
    return float(unit["factor"]), float(unit.get("binary", unit["factor"]))


def read_amount(dimension: str, text: str, before: str = "", after: str = "") -> Amount:
    """The amount that `hole(dimension)` matched. `before` and `after` are its surroundings on the line."""
    factor, binary = unit_of(dimension, text)
    numbers = re.findall(rf"{NUMBER}|\.\d{{1,9}}", text)[:2]
    values = sorted(float(number.replace(",", "")) * factor for number in numbers)
    decimals = max(len(number.partition(".")[2]) for number in numbers)
    compare: Comparison = next(
        (sign for sign, pattern in _BEFORE if re.search(pattern, before[-20:], re.IGNORECASE)), "="
    )
    if after.startswith("+") and compare == "=":
        compare = ">"
    return Amount(dimension, values[0], values[-1], factor / 10**decimals, binary / factor, compare)


def read_members(text: str) -> tuple[int, ...] | None:
    """The numbers of "[0-15]", "[4,5,6,7]" or "126, GPU 127"; None when the list is absurdly long."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if len(numbers) == 2 and re.search(r"\d\s?[-–]\s?\d", text):
        first, last = numbers
        return tuple(range(first, last + 1)) if 0 <= last - first < MAX_MEMBERS else None
    return tuple(numbers)


def agrees(claimed: Amount, computed: float) -> bool:
    """Whether a computed value bears the claim out, within the tolerance or the claim's printed precision."""
    if claimed.dimension == "int":
        tolerance = 0.0
    else:
        share = TOLERANCE_ABOUT if claimed.compare == "~" else TOLERANCE
        tolerance = max(share * abs(computed), claimed.digit / 2) * (1 + 1e-9)
    if claimed.compare == "<":
        return computed <= claimed.high
    if claimed.compare == ">":
        return computed >= claimed.low
    return claimed.low - tolerance <= computed <= claimed.high + tolerance


def show(value: float, dimension: str) -> str:
    """A value for people."""
    return _SHOW.get(dimension, _show_count)(value)


def _scaled(value: float, *scales: tuple[float, str]) -> str:
    """A value in the largest unit that it reaches, else the last."""
    factor, unit = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    return f"{value / factor:.4g} {unit}"


def _show_bytes(value: float) -> str:
    return _scaled(value, (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def _show_flops(value: float) -> str:
    return _scaled(value, (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))


def _show_count(value: float) -> str:
    if value >= 1e5:
        return format_count(value)
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"


def _show_int(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


_SHOW: dict[str, Callable[[float], str]] = {
    "bytes": _show_bytes,
    "seconds": format_seconds,
    "flops": _show_flops,
    "floprate": lambda value: _show_flops(value) + "S",
    "byterate": lambda value: _scaled(value, (1e12, "TB/s"), (1e9, "GB/s")),
    "fraction": lambda value: f"{value * 100:.3g} %",
    "ratio": lambda value: f"{value:.3g}×",
    "int": _show_int,
}
