"""Finds the quantities that a document states: patterns of `recognisers.toml` against every line.

Patterns are tried in the order of the file and the first to read a number keeps it. What no pattern reads is
returned too, so that nothing is passed over in silence. Gaps and numbers in patterns are bounded, so that time
grows with the length of the document and no faster.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from moe_plan.audit.amounts import NUMBER, Amount, hole, read_amount, read_members
from moe_plan.audit.evaluate import parse
from moe_plan.audit.lines import Line
from moe_plan.audit.verdict import Unread

Span = tuple[int, int, int]
"""Index of a line, start and end on it."""

_HOLE = re.compile(r"\{([a-z_]+)\}")
_SPACE = r"(?:[\s_*`\"'-]{1,4})"
_SEPARATOR = (
    r"(?:(?:(?! [*/+×−-] )[^\w\n]){1,12}"
    r"(?:(?:of|is|at|about|around|roughly|under|below|over|above|less than|more than|at least|at most)\s){0,2})"
)
_GAP = r"(?:[^\n]{0,60}?)"
_DIGIT = re.compile(r"\d")
_ANY_NUMBER = re.compile(NUMBER)
_MARKUP = re.compile(r"\*\*|`")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An entry of quantities.toml."""

    name: str
    label: str
    unit: str
    assume: tuple[ast.expr, ...]
    """What holds when a document does not say, the first whose names are known."""
    only: str
    """Why no formula can tell it; empty when one can."""


@dataclass(frozen=True, slots=True)
class Mention:
    """One number of the document, read as a quantity."""

    quantity: str
    line: int
    text: str
    """The words that state it, without markup."""
    start: int
    end: int
    """Where the number stands on the line."""
    amount: Amount | None
    """None for a list of ranks or layers."""
    members: tuple[int, ...]
    index: int
    """Index of the group that the pattern names with {i}; 0 where there is none."""
    authority: int


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was found in a document."""

    mentions: tuple[Mention, ...]
    words: tuple[Mention, ...]
    """Quantities that a word implies, such as two bytes a parameter by "bf16"."""
    spans: frozenset[Span]
    """What was read or is known to be no claim."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    holes: tuple[str, ...]
    under: re.Pattern[str] | None
    authority: int
    value: float
    """What a word states; 0 for a pattern with holes."""


def load(name: str) -> dict[str, Any]:
    """A data file of the audit."""
    return tomllib.loads(files("moe_plan.audit").joinpath(name).read_text(encoding="utf-8"))


@cache
def quantities() -> dict[str, Quantity]:
    """Every quantity by name."""
    return {name: _quantity(name, entry) for name, entry in load("quantities.toml").items()}


def _quantity(name: str, entry: dict[str, Any]) -> Quantity:
    assume = entry.get("assume", [])
    alternatives = (assume,) if isinstance(assume, str) else tuple(assume)
    return Quantity(name, entry["label"], entry["unit"], tuple(map(parse, alternatives)), entry.get("only", ""))


@cache
def _patterns(kind: str) -> tuple[_Pattern, ...]:
    return tuple(_compile(entry) for entry in load("recognisers.toml")[kind])


def _compile(entry: dict[str, Any]) -> _Pattern:
    """A pattern of the file in its own notation, as a regular expression with one group a hole."""
    source: str = entry["pattern"]
    text = source.replace(" ", _SPACE).replace("~", _SEPARATOR).replace("…", _GAP)
    text = _HOLE.sub(lambda match: f"({hole(_unit(match[1]))})", text)
    edge = r"(?<![\w.])(?<!\d,)" if source.startswith("{") else r"(?<![A-Za-z0-9])" if source[0].isalpha() else ""
    under = re.compile(entry["under"], re.IGNORECASE) if "under" in entry else None
    holes = tuple(_HOLE.findall(source)) or ((entry["quantity"],) if "quantity" in entry else ())
    return _Pattern(
        re.compile(edge + text, re.IGNORECASE), holes, under, entry.get("authority", 0), entry.get("value", 0)
    )


def _unit(name: str) -> str:
    return "index" if name == "i" else quantities()[name].unit


def recognise(lines: tuple[Line, ...]) -> Reading:
    """Every quantity that the lines state, in the order of the document."""
    mentions: list[Mention] = []
    words: list[Mention] = []
    spans: set[Span] = set()
    for line in lines:
        words += _read_words(line)
        if not _DIGIT.search(line.text):
            continue
        found = _read_line(line)
        mentions += found
        spans |= {(line.index, mention.start, mention.end) for mention in found}
        spans |= {(line.index, *match.span()) for match in _indices_and_asides(line)}
    return Reading(tuple(mentions), tuple(words), frozenset(spans))


def unread(lines: tuple[Line, ...], spans: frozenset[Span]) -> tuple[Unread, ...]:
    """The numbers outside the spans."""
    read: dict[int, list[Span]] = {}
    for span in spans:
        read.setdefault(span[0], []).append(span)
    return tuple(
        Unread(line.number, line.text.strip(), number[0])
        for line in lines
        for number in _ANY_NUMBER.finditer(line.text)
        if not any(start <= number.start() < end for _, start, end in read.get(line.index, ()))
    )


def _read_line(line: Line) -> list[Mention]:
    found: list[Mention] = []
    taken = [False] * (len(line.text) + 1)
    for pattern in _patterns("recogniser"):
        if pattern.under and not pattern.under.search(line.path):
            continue
        for match in pattern.regex.finditer(line.text):
            spans = [match.span(group) for group in range(1, len(pattern.holes) + 1) if match[group]]
            if any(any(taken[start:end]) for start, end in spans):
                continue
            for start, end in spans:
                taken[start:end] = [True] * (end - start)
            found += _mentions(line, pattern, match)
    return sorted(found, key=lambda mention: mention.start)


def _mentions(line: Line, pattern: _Pattern, match: re.Match[str]) -> Iterator[Mention]:
    index = next((int(match[group]) for group, name in enumerate(pattern.holes, 1) if name == "i"), 0)
    text = clean(match[0])
    for group, name in enumerate(pattern.holes, 1):
        number = match[group]
        if not number or name == "i":
            continue
        start, end = match.span(group)
        unit = quantities()[name].unit
        members = read_members(number) if unit == "members" else ()
        if members is None:
            continue
        amount = None if unit == "members" else read_amount(unit, number, line.text[:start], line.text[end:])
        yield Mention(name, line.number, text, start, end, amount, members, index, pattern.authority)


def _read_words(line: Line) -> Iterator[Mention]:
    for pattern in _patterns("word"):
        match = pattern.regex.search(line.text)
        if match:
            amount = Amount("int", pattern.value, pattern.value, 1.0, 1.0, "=")
            yield Mention(pattern.holes[0], line.number, clean(match[0]), *match.span(), amount, (), 0, 0)


def _indices_and_asides(line: Line) -> Iterator[re.Match[str]]:
    """What is passed over on purpose: indices of groups, numbers of headings, parts of names."""
    for pattern in _patterns("aside"):
        yield from pattern.regex.finditer(line.text)


def clean(text: str) -> str:
    """Text without Markdown markup and runs of space."""
    return " ".join(_MARKUP.sub("", text).split())
