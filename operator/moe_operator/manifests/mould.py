"""Objects that differ in a few values: rendered once with marks in place of these, then cast as often as needed.

Rendering a pod takes milliseconds, most of it to parse YAML; casting one takes some 50 µs.
"""

from collections.abc import Mapping
from typing import Any

_FIRST = "\ufdd0"
"""A noncharacter of Unicode, reserved for a program's own use: no manifest has a reason to hold one."""


def mark(name: str) -> str:
    """What stands for a value in a mould."""
    return f"{_FIRST}{name}"


def cast(mould: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """A new object: the mould with each mark that is a whole string replaced. Raises KeyError for a mark without value."""
    return {key: _cast(item, values) for key, item in mould.items()}


def _cast(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return values[value[1:]] if value.startswith(_FIRST) else value
    if isinstance(value, dict):
        return cast(value, values)
    if isinstance(value, list):
        return [_cast(item, values) for item in value]
    return value
