"""Helm as people run it, and a control plane to install into."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from binaries import TOOLS, tool
from control_plane import ControlPlane, control_plane
from helm_chart import CHART, NAMESPACE, Helm, Object, Render


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs `helm ARGUMENTS…`; the caller looks at the exit status."""
    program = tool("helm")
    if program is None:
        pytest.skip(f"no helm {TOOLS['helm'][1]} on this machine; `python tests/cluster/binaries.py` builds it")
    home = tmp_path_factory.mktemp("helm")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HELM_CACHE_HOME": str(home)}

    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(program), *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Objects of `helm template` with values."""

    def objects(values: dict[str, Any] | None = None, release: str = "moe-operator") -> list[Object]:
        done = helm(
            "template", release, CHART, "--namespace", NAMESPACE, "--values", "-", stdin=json.dumps(values or {})
        )
        assert done.returncode == 0, done.stderr
        return [obj for obj in yaml.safe_load_all(done.stdout) if obj]

    return objects


@pytest.fixture(scope="session")
def bare_plane() -> Iterator[ControlPlane]:
    """A control plane without the project's CRD."""
    with control_plane() as running:
        yield running
