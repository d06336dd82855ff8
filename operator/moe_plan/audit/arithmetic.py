"""Sums that a document writes out: "64 × 2 = 128", "240TFlops (400TFlops × 60%)", `64 // 16  # 4 experts per GPU`."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from moe_plan.audit.amounts import NUMBER, Amount, hole, read_amount, unit_of
from moe_plan.audit.evaluate import NotArithmeticError, evaluate, parse
from moe_plan.audit.lines import Line
from moe_plan.audit.recognise import Span, clean

_DIMENSIONS = ("byterate", "bytes", "flops", "seconds", "fraction", "count")
_WORDS = r"(?:[^\S\n]+[A-Za-z][A-Za-z-]{0,20}){0,3}?"
_AMOUNT = "(?:" + "|".join(hole(dimension) for dimension in _DIMENSIONS) + ")"
_TERM = f"{_AMOUNT}{_WORDS}"
_SIGN = r"\s{0,3}[×*+]\s{0,3}"
_CHAIN = f"{_TERM}(?:{_SIGN}{_TERM}){{1,6}}"
_EDGE = r"(?<![\w.*/×+-])(?<!\d,)(?<![×*+/] )"
_CHAIN_IS = re.compile(f"{_EDGE}({_CHAIN})\\s{{0,3}}(=)\\s{{0,3}}({_AMOUNT})")
_IS_CHAIN = re.compile(f"{_EDGE}({_AMOUNT}){_WORDS}\\s?(\\()({_CHAIN})\\)")
_COMPARED = re.compile(f"{_EDGE}({_TERM})\\s{{1,3}}([<>=])\\s{{1,3}}({_AMOUNT})")
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z_]\w{0,40})\s?=\s?([^#=]{1,200})(?:#(.{1,200}))?$")
_PRINTED = re.compile(r"\{([^{}:]{1,80}):[^{}]{0,8}\}(%?)[^#]{0,20}#(.{1,200})$")
_OPERATOR = re.compile(r"[-+*/]")


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum and what the document says it comes to."""

    line: int
    text: str
    claimed: Amount
    computed: float


@dataclass(frozen=True, slots=True)
class Sums:
    """All sums of a document, and the places of their terms."""

    found: tuple[Sum, ...]
    spans: frozenset[Span]


def find_sums(lines: tuple[Line, ...]) -> Sums:
    """Every sum whose terms are all known."""
    found: list[Sum] = []
    spans: set[Span] = set()
    variables: dict[str, float] = {}
    for line in lines:
        for one, span in _in_code(line, variables) if line.code else _in_prose(line):
            spans.add((line.index, *span))
            if one:
                found.append(one)
    return Sums(tuple(found), frozenset(spans))


def _in_prose(line: Line) -> Iterator[tuple[Sum | None, tuple[int, int]]]:
    for pattern, chain, result in ((_CHAIN_IS, 1, 3), (_IS_CHAIN, 3, 1), (_COMPARED, 1, 3)):
        for match in pattern.finditer(line.text):
            if pattern is _COMPARED and _CHAIN_IS.search(line.text) and match[2] == "=":
                continue
            claimed = _claim(match[result], line.text[: match.start(result)])
            computed = _chain_value(match[chain])
            if claimed and computed is not None:
                claimed = _as_comparison(claimed, match[2])
                yield Sum(line.number, clean(match[0]), claimed, computed), match.span()


def _as_comparison(claimed: Amount, sign: str) -> Amount:
    """The claim of `A < B` is that A is below B."""
    if sign not in "<>":
        return claimed
    return Amount(claimed.dimension, claimed.low, claimed.high, 0.0, claimed.binary, "<" if sign == "<" else ">")


def _in_code(line: Line, variables: dict[str, float]) -> Iterator[tuple[Sum | None, tuple[int, int]]]:
    """Sums of one line of code. Names that it assigns are added to `variables`."""
    assigned = _ASSIGNMENT.match(line.text)
    if assigned:
        name, text, comment = assigned.groups()
        value = _code_value(text, variables)
        if value is not None:
            variables[name] = value
        if value is not None and _OPERATOR.search(text):
            yield _commented(line, clean(assigned[0]), comment, value), assigned.span(2)
    printed = _PRINTED.search(line.text)
    if printed:
        value = _code_value(printed[1], variables)
        if value is not None:
            scale = 0.01 if printed[2] else 1.0
            yield _commented(line, clean(printed[0]), printed[3], value * scale), printed.span(1)


def _commented(line: Line, text: str, comment: str | None, value: float) -> Sum | None:
    number = re.search(_AMOUNT, comment or "")
    claimed = _claim(number[0], (comment or "")[: number.start()]) if number else None
    return Sum(line.number, text, claimed, value) if claimed else None


def _code_value(text: str, variables: dict[str, float]) -> float | None:
    try:
        return evaluate(parse(text), variables.__getitem__)
    except (NotArithmeticError, KeyError):
        return None


def _claim(text: str, before: str) -> Amount | None:
    for dimension in _DIMENSIONS:
        if re.fullmatch(hole(dimension), text, re.IGNORECASE):
            return read_amount(dimension, text, before)
    return None


def _chain_value(chain: str) -> float | None:
    """Value of "8 groups × 16 GPUs + 4": products before sums."""
    products = [
        math.prod(_term_value(term) for term in re.split(r"[×*]", product)) for product in re.split(r"\+", chain)
    ]
    value = math.fsum(products)
    return value if math.isfinite(value) else None


def _term_value(term: str) -> float:
    for dimension in _DIMENSIONS:
        match = re.match(rf"\s*({hole(dimension)})", term)
        if match:
            number = re.search(NUMBER, match[1])
            factor, _ = unit_of(dimension, match[1])
            return float(number[0].replace(",", "")) * factor if number else math.nan
    return math.nan
