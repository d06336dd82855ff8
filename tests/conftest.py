"""What all tests share: the project's own command, texts to compare with, and a control plane."""

from collections.abc import Iterator
from pathlib import Path

import moe_command
import pytest
from control_plane import ControlPlane, control_plane
from goldens import Golden
from hypothesis import settings
from moe_command import Moe

# A loaded machine is no failure: speed is measured by `make bench`, never asserted. What is found at random is printed
# so that it can be found again.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write golden files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares a text with a golden file, or writes it there with --rewrite-golden."""

    def check(file: Path, text: str) -> None:
        if request.config.getoption("--rewrite-golden"):
            file.write_text(text)
        assert file.read_text() == text, f"{file.name} differs; if that is meant, run pytest --rewrite-golden"

    return check


@pytest.fixture
def moe() -> Moe:
    """Calls `moe ARGUMENTS…` in this process."""
    return moe_command.call


@pytest.fixture
def moe_process() -> Moe:
    """Runs `moe ARGUMENTS…` as its own process."""
    return moe_command.run


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """etcd, API server, scheduler, controller-manager and kwok, with the project's CRD: one for all tests that need one."""
    with control_plane() as running:
        running.install_crd()
        yield running
