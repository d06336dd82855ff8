"""The chart, and how tests run Helm on it."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[2] / "charts" / "moe-operator"
NAMESPACE = "moe-operator-system"
Object = dict[str, Any]
Helm = Callable[..., subprocess.CompletedProcess[str]]
"""Runs `helm ARGUMENTS…`."""
Render = Callable[..., list[Object]]
"""Objects of the chart under values."""


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The object of a kind, and of a name where there are several."""
    (found,) = (o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))
    return found
