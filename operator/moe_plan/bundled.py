"""What the bundled runtime cannot execute although it can be planned, so that no pod starts in vain."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ENGINE = "moe"
"""Its name in spec.runtime.engine. It fetches checkpoints for the other engines, too."""


@cache
def _executed() -> Mapping[str, list[str]]:
    return tomllib.loads(Path(__file__).with_name("bundled.toml").read_text())


def unexecuted_family(config: Mapping[str, Any]) -> str | None:
    """What to say of the model of a config.json that the bundled runtime does not execute; None where it does."""
    families, own = _executed()["families"], config.get("model_type")
    if own in families:
        return None
    return f"the bundled runtime executes {' and '.join(families)} models, not {own}"


def unloaded_dtype(dtype: str) -> str | None:
    """What to say of a format in which the bundled runtime loads no weights; None where it does."""
    dtypes = _executed()["dtypes"]
    return None if dtype in dtypes else f"the bundled runtime loads {', '.join(dtypes)} weights, not {dtype}"
