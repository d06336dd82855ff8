"""What the plan rests upon beside the manifest: figures of the GPU, of the model and of the cost model, with sources.

The cost model's sources are read from its data files: a key's comment, else its table's `source`, else its table's
comment, else the one that the file begins with.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from moe_plan.catalogue.hardware import hardware_sources
from moe_plan.catalogue.models import load_model
from moe_plan.cost.predict import profile_name
from moe_plan.hardware import LinkTier
from moe_plan.subject import Subject
from moe_plan.units import format_bytes, format_seconds

MANIFEST = "the manifest"
_HEADER = re.compile(r"^\[+([^\]]+)\]+\s*(?:#\s*(.*))?$")
_KEY = re.compile(r"^([A-Za-z0-9_.\"-]+)\s*=")
_TRAILING = re.compile(r"\s#\s*([^#]*)$")


@dataclass(frozen=True, slots=True)
class Assumption:
    """One figure and where it is from."""

    about: str
    """GPU, model, or a data file of the cost model."""
    name: str
    value: str
    source: str


def assumptions(subject: Subject) -> tuple[Assumption, ...]:
    """Every figure that the plan's numbers depend upon."""
    return (
        *_of_gpu(subject),
        *_of_model(subject),
        *_of_cost_model(profile_name(subject.spec.runtime.engine, subject.hardware)),
    )


def _of_gpu(subject: Subject) -> Iterator[Assumption]:
    hardware, spec = subject.hardware, subject.spec.hardware
    sources = {} if spec.accelerator is None else hardware_sources(spec.accelerator)
    per_node = MANIFEST if spec.gpus_per_node is not None else sources.get("gpus_per_node", "assumption: 8")
    about = f"GPU {hardware.name}"
    yield Assumption(about, "memory", format_bytes(hardware.memory_bytes), sources.get("memory_bytes", MANIFEST))
    yield Assumption(
        about, "memory left free", f"{hardware.memory_reserve:.0%}", f"{MANIFEST}'s memoryReserve, or its default"
    )
    bandwidth = f"{format_bytes(hardware.memory_bandwidth_bytes_per_s)}/s"
    yield Assumption(about, "memory bandwidth", bandwidth, sources.get("memory_bandwidth", MANIFEST))
    for name, rate in hardware.flops:
        yield Assumption(about, f"{name} arithmetic", f"{rate / 1e12:,.6g} TFLOPS", sources.get("flops", MANIFEST))
    for tier in hardware.links:
        yield Assumption(about, f"{tier.scope} links", show_link(tier), sources.get("links", MANIFEST))
    yield Assumption(about, "GPUs of a node", str(hardware.gpus_per_node), per_node)


def show_link(tier: LinkTier) -> str:
    """Rate and latency of a tier for people."""
    return f"{format_bytes(tier.bandwidth_bytes_per_s)}/s each way, {format_seconds(tier.latency_s)}"


def _of_model(subject: Subject) -> Iterator[Assumption]:
    architecture = subject.spec.model.architecture
    shape = subject.shape
    value = f"{len(shape.layers)} layers, hidden {shape.hidden:,}, {subject.experts} experts"
    if architecture is None:
        yield Assumption(f"model {shape.name}", "config.json", value, MANIFEST)
        return
    entry = load_model(architecture)
    yield Assumption(f"model {entry.name}", "config.json", value, entry.citation)
    if entry.note:
        yield Assumption(f"model {entry.name}", "caveat", "", entry.note)


def _of_cost_model(profile: str) -> Iterator[Assumption]:
    folder = files("moe_plan.cost")
    profiles = tomllib.loads(folder.joinpath("engines.toml").read_text(encoding="utf-8"))
    others = frozenset(profiles) - {profile}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            yield from of_file(file.name, file.read_text(encoding="utf-8"), others)


def of_file(name: str, text: str, without: frozenset[str] = frozenset()) -> Iterator[Assumption]:
    """The figures of a TOML file, with the sources that its comments or `source` keys give; tables `without` left out."""
    comments = _comments(text)
    for path, value, source in _leaves(tomllib.loads(text), (), ""):
        if without.isdisjoint(path):
            found = comments.get(".".join(path)) or source or comments.get(".".join(path[:-1])) or comments.get("", "")
            label, shown = _named(path, value)
            yield Assumption(f"cost model, {name}", label, shown, found)


def _leaves(table: dict[str, Any], path: tuple[str, ...], source: str) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Every value that is no table, its path, and the source that its table or one around it names."""
    here, each = table.get("source", source), table.get("sources", {})
    for key, value in table.items():
        if isinstance(value, dict) and key != "sources":
            yield from _leaves(value, (*path, key), here)
        elif key not in ("source", "sources"):
            yield (*path, key), value, each.get(key, here) if isinstance(each, dict) else here


def _comments(text: str) -> dict[str, str]:
    """The comment of each key and table by dotted path, and of the file by "": behind it, or in the lines around it.

    What stands above a header or right below it is the table's, what stands above a key or behind it the key's, and
    what the file begins with is the file's.
    """
    found: dict[str, str] = {}
    above: list[str] = []
    table = fresh = ""
    for line in text.splitlines():
        header, key = _HEADER.match(line), _KEY.match(line)
        if line.startswith("#"):
            above.append(line[1:].strip())
            continue
        if not found and above:
            found[""] = " ".join(above)
        if header:
            table = fresh = header[1].strip()
            found[table] = header[2] or " ".join(above)
        elif key:
            trailing, path = _TRAILING.search(line), f"{table}.{key[1]}" if table else key[1]
            found[path] = trailing[1].strip() if trailing else ""
            owner = table if fresh else path
            found[owner] = found.get(owner) or " ".join(above)
            fresh = ""
        above = []
    return found


def _named(path: tuple[str, ...], value: Any) -> tuple[str, str]:
    """Name and value for people; a name that ends in _s is of seconds."""
    name = " ".join(path).replace("_", " ")
    if name.endswith(" s") and isinstance(value, float):
        return name[:-2], format_seconds(value)
    return name, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
