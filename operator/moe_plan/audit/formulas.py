"""Recomputes a quantity by the formulas of `formulas.toml`, from what a document states, claims or leaves open."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from moe_plan.audit.amounts import Amount, show
from moe_plan.audit.evaluate import NotArithmeticError, evaluate, parse, write
from moe_plan.audit.recognise import load, quantities
from moe_plan.audit.verdict import Fact

Units = Literal["decimal", "binary"]
MODEL = "model"
INFERENCE = 1
_CLAIMED = "claimed_"


class UnknownQuantityError(Exception):
    """A formula needs what the document does not state."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


@dataclass(frozen=True, slots=True)
class Formula:
    """An entry of formulas.toml, parsed."""

    basis: str
    passes: int
    """1 or 3 where it holds for inference or training only, else 0."""
    expressions: Mapping[str, ast.expr]
    """By role: value, low, high, floor, ceiling."""
    source: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What must be 0 for a degree to work."""

    zero: ast.expr
    factor: ast.expr | None
    says: str


@dataclass(frozen=True, slots=True)
class Computed:
    """What a formula gives. A range when low and high are given instead of a value."""

    low: float | None
    high: float | None
    floor: float | None
    ceiling: float | None
    text: str
    """The formula with its numbers."""
    bounds: str
    """The bounds with their numbers; empty when there are none."""
    source: str


@dataclass(frozen=True, slots=True)
class Case:
    """What formulas may draw upon, and what they had to assume."""

    facts: Mapping[str, Fact]
    claims: Mapping[str, Amount]
    layout: Mapping[str, float]
    units: Units = "decimal"
    assumed: dict[str, float] = field(default_factory=dict)
    """Assumptions drawn upon so far, by quantity."""

    def value(self, name: str, within: tuple[str, ...] = ()) -> float:
        """A quantity's value: stated, else by a formula, else assumed. Raises UnknownQuantityError."""
        if name in within:
            raise UnknownQuantityError(name)
        if name.startswith(_CLAIMED):
            return self._claimed(name)
        if name in self.facts:
            fact = self.facts[name]
            return fact.value * (fact.binary if self.units == "binary" else 1.0)
        if name in self.layout:
            return self.layout[name]
        ways = [*self._ways(name), *self._assumptions(name)]
        return self._first(name, ways, (*within, name))

    def _claimed(self, name: str) -> float:
        amount = self.claims.get(name.removeprefix(_CLAIMED))
        if amount is None:
            raise UnknownQuantityError(name)
        return amount.high * (amount.binary if self.units == "binary" else 1.0)

    def _ways(self, name: str) -> Iterator[ast.expr]:
        """Formulas for the value of a name that nobody states."""
        for formula in self.formulas(name, MODEL):
            if "value" in formula.expressions:
                yield formula.expressions["value"]

    def _first(self, name: str, ways: Sequence[ast.expr], within: tuple[str, ...]) -> float:
        """The first of several expressions whose names are known, else the error that says what the first lacks."""
        lacking: UnknownQuantityError | None = None
        for tree in ways:
            before = dict(self.assumed)
            try:
                value = evaluate(tree, lambda inner: self.value(inner, within))
            except UnknownQuantityError as error:
                lacking = lacking or error
                self._forget(before)
                continue
            if tree in self._assumptions(name):
                self.assumed[name] = value
            return value
        raise lacking or UnknownQuantityError(name)

    def _forget(self, before: Mapping[str, float]) -> None:
        """Undo the assumptions of an attempt that failed."""
        self.assumed.clear()
        self.assumed.update(before)

    def _assumptions(self, name: str) -> tuple[ast.expr, ...]:
        return quantities()[name].assume if name in quantities() else ()

    def formulas(self, name: str, basis: str) -> Iterator[Formula]:
        """The formulas of a quantity that fit the document's kind of work."""
        for formula in formulas().get(name, ()):
            if formula.basis == basis and formula.passes in (0, self._passes()):
                yield formula

    def _passes(self) -> float:
        return self.facts["passes"].value if "passes" in self.facts else INFERENCE

    def compute(self, name: str, basis: str) -> Computed:
        """A quantity by the first formula whose names are known.

        Raises UnknownQuantityError with what the first formula lacks, NotArithmeticError when it has no value.
        """
        lacking: UnknownQuantityError | None = None
        for formula in self.formulas(name, basis):
            try:
                return self._by(formula)
            except UnknownQuantityError as error:
                lacking = lacking or error
        raise lacking or UnknownQuantityError(name)

    def _by(self, formula: Formula) -> Computed:
        found: dict[str, float] = {}
        needed = [role for role in ("value", "low", "high") if role in formula.expressions]
        for role in needed:
            found[role] = evaluate(formula.expressions[role], self.value)
        for role in ("floor", "ceiling"):
            before = dict(self.assumed)
            try:
                if role in formula.expressions:
                    found[role] = evaluate(formula.expressions[role], self.value)
            except (UnknownQuantityError, NotArithmeticError):
                self._forget(before)
                if not needed:
                    raise
        text = " to ".join(self.write(formula.expressions[role]) for role in needed)
        bounds = " and ".join(
            f"{'at least' if role == 'floor' else 'at most'} {self.write(formula.expressions[role])}"
            for role in ("floor", "ceiling")
            if role in found
        )
        low, high = found.get("value", found.get("low")), found.get("value", found.get("high"))
        return Computed(low, high, found.get("floor"), found.get("ceiling"), text, bounds, formula.source)

    def write(self, tree: ast.expr) -> str:
        """An expression with labels and numbers for names; a lone name is replaced by its own formula."""
        if isinstance(tree, ast.Name) and tree.id not in self.facts:
            tree = next(self._ways(tree.id), tree)
        return write(tree, self._write_name)

    def _write_name(self, name: str) -> str:
        value = self.value(name)
        plain = name.removeprefix(_CLAIMED)
        prefix = "claimed " if name != plain else ""
        quantity = quantities().get(plain)
        if quantity is None:
            return f"{plain.replace('_', ' ')} {value:g}"
        return f"{prefix}{quantity.label} {show(value, quantity.unit)}"

    def in_binary(self) -> "Case":
        """The same with MB read as MiB, with nothing assumed yet."""
        return Case(self.facts, self.claims, self.layout, "binary")

    def afresh(self) -> "Case":
        """The same with nothing assumed yet."""
        return Case(self.facts, self.claims, self.layout, self.units)


@cache
def formulas() -> dict[str, tuple[Formula, ...]]:
    """Formulas by quantity, in the order of the file."""
    found: dict[str, list[Formula]] = {}
    for entry in load("formulas.toml")["formula"]:
        for name in [entry["of"]] if isinstance(entry["of"], str) else entry["of"]:
            found.setdefault(name, []).append(_formula(entry))
    return {name: tuple(entries) for name, entries in found.items()}


def _formula(entry: dict[str, Any]) -> Formula:
    roles = ("value", "low", "high", "floor", "ceiling")
    expressions = {role: parse(entry[role]) for role in roles if role in entry}
    return Formula(entry.get("basis", MODEL), entry.get("passes", 0), expressions, entry.get("source", ""))


@cache
def rules() -> dict[str, tuple[Rule, ...]]:
    """Rules by degree, in the order of the file."""
    found: dict[str, list[Rule]] = {}
    for entry in load("formulas.toml")["rule"]:
        factor = parse(entry["factor"]) if "factor" in entry else None
        found.setdefault(entry["of"], []).append(Rule(parse(entry["zero"]), factor, entry["says"]))
    return {name: tuple(entries) for name, entries in found.items()}
