"""Helm as people run it, and a control plane to install into."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane, control_plane
from helm_chart import CHART, NAMESPACE, Helm, Object, Render, helm_at


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs `helm ARGUMENTS…`."""
    return helm_at(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Objects of `helm template` with values; the same values are rendered once."""

    @cache
    def rendered(release: str, values: str) -> list[Object]:
        done = helm("template", release, CHART, "--namespace", NAMESPACE, "--values", "-", stdin=values)
        assert done.returncode == 0, done.stderr
        return [obj for obj in yaml.safe_load_all(done.stdout) if obj]

    def objects(values: dict[str, Any] | None = None, release: str = "moe-operator") -> list[Object]:
        return copy.deepcopy(rendered(release, json.dumps(values or {})))

    return objects


@pytest.fixture(scope="session")
def bare_plane() -> Iterator[ControlPlane]:
    """A control plane without the project's CRD."""
    with control_plane() as running:
        yield running
