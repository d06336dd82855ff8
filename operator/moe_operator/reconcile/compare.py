"""Whether an object is as it should be, whatever the API server or others have added to it."""

from collections.abc import Mapping
from typing import Any


def within(wanted: Any, here: Any) -> bool:
    """Whether all that is wanted is there. What is wanted empty may be absent, as the API server drops such fields."""
    if isinstance(wanted, Mapping):
        return isinstance(here, Mapping) and all(
            within(value, here.get(key)) if value not in ({}, []) else not here.get(key)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(here, list | tuple)
            and len(wanted) == len(here)
            and all(within(a, b) for a, b in zip(wanted, here, strict=True))
        )
    return bool(wanted == here)
