"""An engine as its data file describes it."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

Fact = Literal[
    "frontend",
    "worker",
    "several_slots",
    "sharded",
    "unsharded",
    "staged",
    "redundant",
    "stored",
    "random",
    "typed",
    "quantized",
    "float8_cache",
    "keyed",
]
"""What may be so of a pod; `command.facts` says when it is."""
Device = Literal["cuda", "rocm", "cpu"]


class Part(BaseModel):
    """A part of the description: closed, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Conditional(Part):
    """Something that holds only where all its facts do."""

    when: tuple[Fact, ...] = ()


class Argument(Conditional):
    """Arguments of the command; {value} stands for a value of the plan."""

    flags: tuple[str, ...]


class Variable(Conditional):
    """An environment variable."""

    name: str
    value: str


class Option(Conditional):
    """A setting of the engine's options file."""

    path: tuple[str, ...]
    value: str | bool


class Probes(Part):
    """HTTP paths by which the kubelet learns of a pod."""

    port: Literal["http", "agent"]
    """Name of the container port."""
    startup: str
    readiness: str
    liveness: str
    starts_within_s: int
    """Seconds after which a pod that does not answer the startup probe is given up."""


class Metrics(Part):
    """Names of an engine's Prometheus metrics."""

    path: str
    ttft: str
    """Histogram of seconds to the first token."""
    tpot: str
    """Histogram of seconds from token to token."""
    tokens: str
    """Counter of generated tokens."""


class Engine(Part):
    """A serving engine."""

    title: str
    """Its name for people."""
    version: str
    """The version whose documentation and source the description follows."""
    sources: tuple[str, ...]
    images: dict[Device, str]
    """Default image by kind of device."""
    command: tuple[str, ...]
    argument: tuple[Argument, ...]
    environment: tuple[Variable, ...] = ()
    option: tuple[Option, ...] = ()
    """Settings of engine.yaml."""
    torchrun: bool
    """Whether pods carry torchrun's variables; other engines would take them for a launcher's."""
    user: int | None = None
    """User of the container, where the image's own must not be it."""
    fixed: tuple[str, ...]
    """Arguments that follow from the plan and are nobody else's to give."""
    quantization: dict[str, str] = {}
    """Names of the formats into which the engine turns weights as it loads them, by spec.model.dtype."""
    api_key: str | None = None
    """Environment variable that holds the key which requests must bear; None where the engine checks none."""
    random_weights: Literal["no", "plan", "config"]
    """What the engine runs from without a checkpoint: nothing, the plan alone, or a config.json."""
    frontend: Probes
    worker: Probes | None = None
    """None where workers answer no HTTP."""
    metrics: Metrics


_FOLDER = Path(__file__).parent
_images: dict[str, str] = {}


def use_images(images: Mapping[str, str]) -> None:
    """Have this process take other images than the data files name, by engine; before any engine is asked for.

    Raises ValueError for a name that is no engine's.
    """
    known = sorted(file.stem for file in _FOLDER.glob("*.toml"))
    unknown = sorted(images.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is no engine; there are {', '.join(known)}")
    _images.clear()
    _images.update(images)
    engine.cache_clear()


@cache
def engine(name: str) -> Engine:
    """The engine that a manifest calls by this name."""
    data: dict[str, Any] = tomllib.loads((_FOLDER / f"{name}.toml").read_text())
    if name in _images:
        data["images"] = dict.fromkeys(get_args(Device), _images[name])
    return Engine.model_validate(data)
