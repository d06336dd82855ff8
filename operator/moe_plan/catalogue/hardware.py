"""Accelerators by name, and those a manifest describes by their figures, as `Hardware`."""

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moe_plan import spec
from moe_plan.errors import ManifestError, Violation
from moe_plan.hardware import UNBOUNDED_GPUS, Hardware, LinkTier, Scope

_FILE = Path(__file__).with_name("hardware.toml")
_WIDTH_OF_SCOPE: dict[Scope, int] = {"node": 0, "domain": 1, "cluster": 2}
_GPUS_PER_NODE = 8


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def hardware_names() -> tuple[str, ...]:
    """Names that spec.hardware.accelerator may have, sorted."""
    return tuple(sorted(_table()))


def hardware_sources(name: str) -> dict[str, str]:
    """Where each figure of an accelerator of the catalogue is from, by figure."""
    return dict(_table()[name]["sources"])


def resolve_hardware(hardware: spec.Hardware) -> Hardware:
    """The GPUs that a manifest asks for. Raises ManifestError when the catalogue has no such name."""
    if hardware.spec is not None:
        return _described(hardware, hardware.spec)
    assert hardware.accelerator is not None, "spec.Hardware has one of accelerator and spec"
    figures = _table().get(hardware.accelerator)
    if figures is None:
        raise ManifestError((_unknown(hardware.accelerator),))
    gpus_per_node = hardware.gpus_per_node or figures["gpus_per_node"]
    return Hardware(
        name=hardware.accelerator,
        memory_bytes=figures["memory_bytes"],
        memory_reserve=hardware.memory_reserve,
        flops=_fastest_last(figures["flops"]),
        memory_bandwidth_bytes_per_s=figures["memory_bandwidth"],
        gpus_per_node=gpus_per_node,
        links=tuple(_tier(gpus_per_node, **link) for link in figures["links"]),
        device=figures["device"],
    )


def _described(hardware: spec.Hardware, figures: spec.Accelerator) -> Hardware:
    gpus_per_node = hardware.gpus_per_node or _GPUS_PER_NODE
    links = sorted(figures.links, key=lambda link: _WIDTH_OF_SCOPE[link.scope])
    return Hardware(
        name="custom",
        memory_bytes=figures.memory,
        memory_reserve=hardware.memory_reserve,
        flops=_fastest_last(figures.flops),
        memory_bandwidth_bytes_per_s=figures.memory_bandwidth,
        gpus_per_node=gpus_per_node,
        links=tuple(_tier(gpus_per_node, link.scope, link.bandwidth, link.latency, link.gpus) for link in links),
    )


def _tier(gpus_per_node: int, scope: Scope, bandwidth: float, latency: float, gpus: int | None = None) -> LinkTier:
    joined = {"node": gpus_per_node, "domain": gpus or 0, "cluster": UNBOUNDED_GPUS}[scope]
    return LinkTier(scope, joined, bandwidth, latency)


def _fastest_last(flops: Mapping[Any, float]) -> tuple[tuple[str, float], ...]:
    return tuple(
        sorted(((str(name), float(rate)) for name, rate in flops.items()), key=lambda pair: (pair[1], pair[0]))
    )


def _unknown(name: str) -> Violation:
    near = difflib.get_close_matches(name.lower(), hardware_names(), n=1, cutoff=0.4)
    known = f"the nearest is {near[0]}" if near else f"known are {', '.join(hardware_names())}"
    return Violation(
        "spec.hardware.accelerator",
        "UnknownAccelerator",
        f"the catalogue has no accelerator {name!r}; {known}",
        "name it, or give the figures of another GPU in spec.hardware.spec",
    )
