"""Manifests from files and standard input: YAML or JSON, several documents, lists, other kinds between them."""

import re
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moe_plan.errors import ManifestError, Violation
from moe_plan.spec import KIND

MAX_BYTES = 8 * 2**20
"""Largest manifest file read; a Kubernetes object is bound to 1.5 MiB by etcd."""

MAX_DEPTH = 100
"""Deepest nesting read: the C loader recurses, and a recursion without bound ends the process."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_Loader):  # type: ignore[misc]  # chosen at run time: the C loader where PyYAML has it
    """A safe loader to which a duplicate key is an error, not a silent last-one-wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002  # PyYAML's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}", node.value[i][0].start_mark
                )
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), "-+0123456789"
)
"""1e-06 is a number in JSON and to kubectl, but text to YAML 1.1, which wants a decimal point."""


@dataclass(frozen=True, slots=True)
class Document:
    """One MoEDeployment as parsed, unvalidated."""

    origin: str
    """The file it came from, '<stdin>' for standard input."""
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """Its metadata.name, or a stand-in where that is missing or no text."""
        metadata = self.data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return name if isinstance(name, str) else "(unnamed)"


def read_text(path: str) -> tuple[str, str]:
    """Origin and text of a file, or of standard input for '-'.

    Raises OSError when it cannot be read, ManifestError when it is too large or not UTF-8.
    """
    origin = "<stdin>" if path == "-" else path
    if path == "-":
        raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise _unreadable(origin, f"is larger than {MAX_BYTES // 2**20} MiB")
    try:
        return origin, raw.decode()
    except UnicodeDecodeError as error:
        raise _unreadable(origin, f"is not UTF-8 text (byte {error.start})") from None


def parse(text: str, origin: str) -> tuple[Document, ...]:
    """Every MoEDeployment in a text; other kinds are named on stderr.

    Raises ManifestError when the text does not parse or holds none.
    """
    found = []
    for item in _items(text, origin):
        if not isinstance(item, dict):
            raise _unreadable(origin, f"holds {type(item).__name__} where a Kubernetes object belongs")
        if item.get("kind") == KIND or "kind" not in item:
            found.append(Document(origin, item))
        else:
            print(f"{origin}: skipped {item['kind']}", file=sys.stderr)
    if not found:
        raise _unreadable(origin, f"holds no {KIND}")
    return tuple(found)


def parse_value(text: str, origin: str) -> Any:
    """One YAML or JSON value. Raises ManifestError when the text does not parse."""
    values = _load(text, origin)
    if len(values) != 1:
        raise _unreadable(origin, f"holds {len(values)} documents where one belongs")
    return values[0]


def _items(text: str, origin: str) -> Iterator[Any]:
    for value in _load(text, origin):
        if (
            isinstance(value, dict)
            and str(value.get("kind", "")).endswith("List")
            and isinstance(value.get("items"), list)
        ):
            yield from value["items"]
        elif value is not None:
            yield value


def _load(text: str, origin: str) -> list[Any]:
    try:
        _check_depth(text, origin)
        return list(yaml.load_all(text, Loader=_UniqueKeyLoader))  # derives from the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise _unreadable(origin, f"does not parse{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise _unreadable(origin, f"does not parse: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise _unreadable(origin, f"does not parse: {error}") from None


def _check_depth(text: str, origin: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _unreadable(origin, f"does not parse: nested more than {MAX_DEPTH} deep")


def _unreadable(origin: str, why: str) -> ManifestError:
    return ManifestError((Violation(origin, "Unreadable", why),))
