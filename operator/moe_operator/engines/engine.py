"""An engine as its data file describes it."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

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
Images = tuple[tuple[str, str], ...]
"""Engine and image, for each engine whose image is not that of its data file."""


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


def own_images(given: Mapping[str, str]) -> Images:
    """Images by engine as an operator is given them. Raises ValueError for a name that is no engine's."""
    known = sorted(file.stem for file in _FOLDER.glob("*.toml"))
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is no engine; there are {', '.join(known)}")
    return tuple(sorted(given.items()))


@cache
def engine(name: str) -> Engine:
    """The engine that a manifest calls by this name."""
    return Engine.model_validate(tomllib.loads((_FOLDER / f"{name}.toml").read_text()))


def default_image(name: str, device: Device, own: Images) -> str | None:
    """Image of an engine where the manifest names none: the operator's own, or that of its data file."""
    return dict(own).get(name) or engine(name).images.get(device)
