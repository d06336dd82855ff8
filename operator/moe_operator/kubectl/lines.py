"""Whose line of a log it is: the bundled runtime says so in front of each, as text or as JSON. Pure.

moe_runtime/logs.py writes `[pp0 ep3 tp1 rank7] message`, or one JSON object with the same as fields. What bears no rank is
the pod's: its frontend, its agent, another engine's.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_SPEAKER = re.compile(r"\[pp(?P<pp>\d+) ep\d+ tp\d+ rank(?P<rank>\d+)\] ")

Concerns = Callable[[str], bool]
"""Whether a line is to be shown."""


def of_rank(rank: int) -> Concerns:
    """Lines of a rank, and those of its pod."""
    return lambda line: _speaker(line).get("rank", rank) == rank


def of_stage(stage: int) -> Concerns:
    """Lines of a stage's ranks, and those of their pods."""
    return lambda line: _speaker(line).get("pp", stage) == stage


def _speaker(line: str) -> Mapping[str, Any]:
    """Coordinates of who speaks; empty for a line that bears no rank."""
    found = _SPEAKER.match(line)
    if found:
        return {name: int(number) for name, number in found.groupdict().items()}
    return _fields(line) if line.startswith("{") else {}


def _fields(line: str) -> Mapping[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
