"""A real control plane, started once for all tests that need one."""

from collections.abc import Iterator

import pytest
from control_plane import ControlPlane, control_plane


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """etcd, API server, scheduler, controller-manager and kwok, with the project's CRD."""
    with control_plane() as running:
        running.install_crd()
        yield running
