"""From parsed YAML or JSON to a validated MoEDeployment, and from a validator's errors to sentences for people."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from moe_plan.errors import ManifestError, Violation
from moe_plan.spec import NAME_PATTERN, SOURCE_PATTERN, MoEDeployment

Path = tuple[str | int, ...]

_KINDS = {
    "int": "an integer",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "dict": "a mapping",
    "model": "a mapping",
    "tuple": "a list",
    "list": "a list",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_LENGTHS = {
    "string_too_short": ("characters", "at least", "min_length"),
    "string_too_long": ("characters", "at most", "max_length"),
    "too_short": ("entries", "at least", "min_length"),
    "too_long": ("entries", "at most", "max_length"),
}
_EXAMPLES = {
    SOURCE_PATTERN: "hf://ORG/NAME, s3://BUCKET/PATH, pvc://CLAIM/PATH, file:///PATH or random",
    NAME_PATTERN: "lower-case letters, digits and hyphens, the first a letter",
}
"""What a pattern of the spec asks for, in words."""


def parse_deployment(data: Any) -> MoEDeployment:
    """Validate what a manifest holds. Raises ManifestError with everything that is wrong with it."""
    if not isinstance(data, Mapping):
        raise ManifestError((Violation("manifest", "WrongType", f"must be a mapping, not {_shown(data)}"),))
    try:
        return MoEDeployment.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    raise ManifestError(tuple(_violation(path, found) for path, found in _by_field(data, details)))


def _by_field(data: Any, details: Iterable[ErrorDetails]) -> Iterator[tuple[Path, list[ErrorDetails]]]:
    """Errors of each field together: a union has one error for each of its members.

    A list whose entries are wrong also counts as too short, which would only confuse.
    """
    grouped: dict[Path, list[ErrorDetails]] = {}
    for detail in details:
        grouped.setdefault(_path_in(data, detail), []).append(detail)
    for path, found in grouped.items():
        entries_are_wrong = any(other[: len(path)] == path and other != path for other in grouped)
        if not (entries_are_wrong and found[0]["type"] == "too_short"):
            yield path, found


def _path_in(data: Any, detail: ErrorDetails) -> Path:
    """The part of an error's location that leads through the manifest, without names of union members."""
    location, path, here = detail["loc"], [], data
    for i, step in enumerate(location):
        absent = i == len(location) - 1 and detail["type"] == "missing"
        held = (isinstance(here, Mapping) and step in here) or (
            isinstance(here, Sequence) and not isinstance(here, str) and isinstance(step, int) and step < len(here)
        )
        if not held and not absent:
            break
        path.append(step)
        here = here[step] if held else None
    return tuple(path)


def _violation(path: Path, found: list[ErrorDetails]) -> Violation:
    field = _dotted(path)
    kinds = {detail["type"] for detail in found}
    if "extra_forbidden" in kinds or "invalid_key" in kinds:
        return Violation(field, "UnknownField", _unknown_field(path))
    if "missing" in kinds:
        return Violation(field, "MissingField", "is required")
    value = found[0]["input"]
    wishes = [_wish(detail) for detail in found]
    if None in wishes:
        return Violation(field, "InvalidValue", _own_words(found[0]))
    if kinds & _LENGTHS.keys():
        return Violation(field, "InvalidValue", f"must {_length(found[0])}")
    code = "OutOfRange" if kinds & _BOUNDS.keys() else "WrongType" if kinds <= _TYPE_KINDS else "InvalidValue"
    return Violation(field, code, f"must be {_or(dict.fromkeys(w for w in wishes if w))}, not {_shown(value)}")


_TYPE_KINDS = {f"{kind}_type" for kind in _KINDS} | {"int_from_float", "int_parsing", "float_parsing", "literal_error"}


def _wish(detail: ErrorDetails) -> str | None:
    """What a value ought to be: 'an integer of at least 1'. None where the error's own words say it."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _LENGTHS:
        return ""
    if kind in ("literal_error", "enum"):
        expected = str(context["expected"]).replace("'", "")
        return f"one of {expected}" if " or " in expected else expected
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        bound = context[key]
        return f"an integer of {words} {bound:,}" if isinstance(bound, int) else f"a number {words} {bound:g}"
    if kind == "string_pattern_mismatch":
        return _EXAMPLES.get(context["pattern"], f"text that matches {context['pattern']}")
    return _wished_type(detail)


def _length(detail: ErrorDetails) -> str:
    noun, words, key = _LENGTHS[detail["type"]]
    bound = detail["ctx"][key]
    return "not be empty" if (words, bound) == ("at least", 1) else f"have {words} {bound:,} {noun}"


def _wished_type(detail: ErrorDetails) -> str | None:
    kind = detail["type"]
    if kind == "finite_number":
        return "a finite number"
    stem = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    return _KINDS.get(stem) if stem != kind else None


def _own_words(detail: ErrorDetails) -> str:
    """A message of the spec's own validators, without the library's prefix."""
    return re.sub(r"^(Value|Assertion) error, ", "", detail["msg"])


def _unknown_field(path: Path) -> str:
    """Says which field may have been meant, or where a field of that name belongs."""
    name = str(path[-1])
    section = _section_at(path[:-1])
    known = _fields(section) if section else {}
    close = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.lower() == name.lower()]
    if close:
        return f"unknown field; did you mean {close[0]}?"
    places = [where for where in _places(MoEDeployment, ()) if where[-1] == name]
    if places:
        return f"unknown field; {name} belongs to {_dotted(places[0][:-1])}"
    return f"unknown field; known are {', '.join(known)}" if known else "unknown field"


def _section_at(path: Path) -> type[BaseModel] | None:
    section: type[BaseModel] | None = MoEDeployment
    for step in path:
        if isinstance(step, int):
            continue
        section = _fields(section).get(step) if section else None
    return section


@cache
def _fields(section: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Names in the manifest of a section's fields, and the section that each one holds, if any."""
    return {field.alias or name: _model_in(field.annotation) for name, field in section.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        return next((model for model in map(_model_in, get_args(annotation)) if model), None)
    return None


@cache
def _places(section: type[BaseModel], above: Path) -> tuple[Path, ...]:
    """Every field of the manifest, by its path."""
    found: list[Path] = []
    for name, inner in _fields(section).items():
        found.append((*above, name))
        if inner is not None:
            found += _places(inner, (*above, name))
    return tuple(found)


def _dotted(path: Path) -> str:
    """A path as people write it: spec.hardware.spec.links[0].scope."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "manifest"


def _or(words: Iterable[str]) -> str:
    return " or ".join(words)


def _shown(value: Any) -> str:
    """A value as it was written, shortened."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            return repr(value if len(value) <= 40 else f"{value[:37]}...")
        case int() | float():
            return str(value)
    return (
        "a mapping"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, list)
        else "a value of another type"
    )
