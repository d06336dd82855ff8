"""Kubernetes notation for sizes and durations, and how both are written for people.

Quantities: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
Durations: Go's time.ParseDuration, as in every Kubernetes API.
"""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?[0-9]+))?$")
_DURATION_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)"
_DURATION = re.compile(rf"^(?:{_DURATION_PART})+$")


def parse_quantity(value: Any) -> float:
    """A Kubernetes quantity ('64Gi', '1.8e12', 400) as a number.

    Raises ValueError when the text is not a quantity, is negative or is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"is not a quantity: {value!r} (write 64Gi, 450e9 or 141000000000)")
    if not isinstance(value, str):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"must be a finite number of at least 0, not {value}")
        return float(value)
    match = _QUANTITY.match(value)
    if match is None:
        raise ValueError(f"is not a quantity: {value!r} (write 64Gi, 450e9 or 141000000000)")
    number, binary, decimal, exponent = match.groups()
    if exponent is not None:
        return float(f"{number}e{exponent}")
    return float(number) * (_BINARY[binary] if binary else _DECIMAL[decimal or ""])


def parse_duration(value: Any) -> float:
    """A Go duration ('500ms', '3us', '1m30s') in seconds. Raises ValueError for anything else."""
    if not isinstance(value, str) or not _DURATION.match(value):
        raise ValueError(f"is not a duration: {value!r} (write 500ms, 3us or 1m30s)")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_DURATION_PART, value))


def parse_fraction(value: Any) -> float:
    """A percentage ('10%') or a fraction (0.1), from 0 up to but not including 1. Raises ValueError otherwise."""
    text = value[:-1] if isinstance(value, str) and value.endswith("%") else None
    try:
        fraction = float(text) / 100 if text is not None else float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError):
        fraction = math.nan
    if isinstance(value, bool) or not 0 <= fraction < 1:
        raise ValueError(f"is not a share below 100%: {value!r} (write 10%)")
    return fraction


Quantity = Annotated[
    float,
    BeforeValidator(parse_quantity),
    Field(gt=0.0, allow_inf_nan=False),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32}),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0.0, allow_inf_nan=False),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "maxLength": 32}),
]
Fraction = Annotated[
    float,
    BeforeValidator(parse_fraction),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,2}(\.[0-9]+)?%$", "maxLength": 8}),
]


def format_bytes(size: float) -> str:
    """Bytes for people, in decimal units as GPU memory is sold: '83.4 GB'."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"


def format_seconds(seconds: float) -> str:
    """A duration for people: '12.3 ms'."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def format_count(count: float) -> str:
    """A count of parameters for people: '235.1B'."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.4g}{unit}"
    return f"{count:.0f}"
