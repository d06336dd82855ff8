"""What all tests share: the project's own command, run as a user runs it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
COMMAND_DEADLINE_S = 120

# A loaded machine is no failure: speed is measured by `make bench`, never asserted.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

Moe = Callable[..., subprocess.CompletedProcess[str]]
Golden = Callable[[Path, str], None]


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
    """Runs `moe ARGUMENTS…` in the checkout, with text on standard input, as its own process."""

    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("moe"), *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT, timeout=COMMAND_DEADLINE_S
        )

    return run
