"""What the runtime's tests share: tiny checkpoints, made once a session."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Tests are no packages, so helpers beside them are found by path.
sys.path.insert(0, str(Path(__file__).parent))


def _make(factory: pytest.TempPathFactory, family: str) -> Any:
    from tiny_models import make_tiny  # noqa: PLC0415  # transformers takes seconds, and most tests do without

    return make_tiny(factory.mktemp(family), family)


@pytest.fixture(scope="session")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TinyModel of the family mixtral."""
    return _make(tmp_path_factory, "mixtral")


@pytest.fixture(scope="session")
def qwen3_moe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TinyModel of the family qwen3_moe."""
    return _make(tmp_path_factory, "qwen3_moe")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tiny model with a tokenizer, served by 8 ranks: Served of served.py."""
    from served import serve_tiny  # noqa: PLC0415  # likewise

    with serve_tiny(tmp_path_factory.mktemp("served")) as served:
        yield served
