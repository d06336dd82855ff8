"""Published models by name: one JSON file each, read when it is asked for.

A file holds the model's config.json, whence it and the published figures come, and a note where the two differ. The
keys that steer remote code or text generation are left out of the config.
"""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from moe_plan.errors import ManifestError, Violation

_HERE = Path(__file__).parent

Component = Literal["layers", "embedding", "head", "prediction"]

_SCALES = {"M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Published:
    """A count of parameters as its publisher states it."""

    figure: str
    """As printed, such as 30.5B."""
    counts: tuple[Component, ...]
    """What it includes; the final norm is of the layers, prediction is the multi-token-prediction modules."""
    beyond: int = 0
    """Parameters that it counts and the config does not have; the model's note says which."""

    @property
    def params(self) -> int:
        """The figure as a number."""
        return round(float(self.figure[:-1]) * _SCALES[self.figure[-1]])

    @property
    def half_digit(self) -> float:
        """Half of the figure's last digit: how far rounding may have moved it, and cutting off twice as far down."""
        decimals = len(self.figure[:-1].partition(".")[2])
        return _SCALES[self.figure[-1]] / float(10**decimals) / 2


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model of the catalogue."""

    name: str
    """Lower case with hyphens, such as qwen3-235b-a22b."""
    source: str
    """Where its weights are, such as hf://Qwen/Qwen3-235B-A22B; random for the synthetic ones."""
    config: dict[str, Any]
    """Its Hugging Face config.json."""
    published_total: Published | None
    """Total parameters; None where no source states them."""
    published_active: Published | None
    """Parameters that a token activates; None where no source states them."""
    citation: str
    """Whence the config and the published figures come."""
    note: str
    """Caveats: what the figures count, what is assumed."""


@cache
def model_names() -> tuple[str, ...]:
    """Names of all models, sorted."""
    return tuple(sorted(entry.stem for entry in _HERE.glob("*.json")))


def load_model(name: str) -> CatalogueModel:
    """The model of a name. Raises ManifestError when the catalogue does not hold it."""
    if name not in model_names():
        raise ManifestError((_unknown(name),))
    entry = json.loads((_HERE / f"{name}.json").read_text(encoding="utf-8"))
    return CatalogueModel(
        name=name,
        source=entry["source"],
        config=entry["config"],
        published_total=_published(entry["published_total"]),
        published_active=_published(entry["published_active"]),
        citation=entry["citation"],
        note=entry["note"],
    )


def _published(entry: dict[str, Any] | None) -> Published | None:
    return Published(entry["figure"], tuple(entry["counts"]), entry.get("beyond", 0)) if entry else None


def _unknown(name: str) -> Violation:
    close = get_close_matches(name.lower(), model_names(), n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]}?" if close else "give its config.json in spec.model.config"
    message = f"{name!r} is not a model of the catalogue"
    return Violation("spec.model.architecture", "UnknownModel", message, remedy)
