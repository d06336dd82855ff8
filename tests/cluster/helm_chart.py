"""The chart, and how tests run Helm on it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from binaries import TOOLS, tool

CHART = Path(__file__).parents[2] / "charts" / "moe-operator"
NAMESPACE = "moe-operator-system"
Object = dict[str, Any]
Helm = Callable[..., subprocess.CompletedProcess[str]]
"""Runs `helm ARGUMENTS…`."""
Render = Callable[..., list[Object]]
"""Objects of the chart under values."""


def helm_at(home: Path, deadline_s: float = 120) -> Helm:
    """Helm whose caches are in a folder; the caller looks at the exit status. Skips the test where there is none."""
    program = tool("helm")
    if program is None:
        pytest.skip(f"no helm {TOOLS['helm'][1]} on this machine; `python tests/cluster/binaries.py` builds it")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HELM_CACHE_HOME": str(home)}

    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(program), *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=deadline_s
        )

    return run


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The object of a kind, and of a name where there are several."""
    (found,) = (o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))
    return found
