"""What answers for the frontends of fake pods."""

from collections.abc import Iterator

import pytest
from operated import Frontends


@pytest.fixture(scope="module")
def frontends() -> Iterator[Frontends]:
    """What answers for the frontends of fake pods."""
    with Frontends().serving() as serving:
        yield serving
