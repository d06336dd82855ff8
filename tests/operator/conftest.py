"""A real control plane, started once for all tests that need one, and what answers for its fake pods."""

from collections.abc import Iterator

import pytest
from control_plane import ControlPlane, control_plane
from operated import Frontends


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """etcd, API server, scheduler, controller-manager and kwok, with the project's CRD."""
    with control_plane() as running:
        running.install_crd()
        yield running


@pytest.fixture(scope="module")
def frontends() -> Iterator[Frontends]:
    """What answers for the frontends of fake pods."""
    with Frontends().serving() as serving:
        yield serving
