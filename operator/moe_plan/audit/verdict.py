"""What an audit finds: facts, verdicts, and the numbers it could not read."""

from dataclasses import dataclass
from typing import Literal

from moe_plan.audit.amounts import Amount, show

Judgement = Literal["holds", "off", "impossible", "unverifiable"]
Origin = Literal["stated", "implied", "given", "assumed"]


@dataclass(frozen=True, slots=True)
class Fact:
    """What a document states of model, hardware, layout or work; or what is assumed since it does not."""

    quantity: str
    label: str
    value: float
    """In the base unit of its dimension: bytes, FLOPS, bytes/s, a count, a fraction."""
    dimension: str
    origin: Origin
    """stated by a number, implied by a word, given by the reader, or assumed."""
    line: int
    """Line of the document; 0 when given or assumed."""
    text: str
    """The document's words, or the assumption."""
    binary: float = 1.0
    """Factor to the binary reading of the unit."""

    def __str__(self) -> str:
        return f"{self.label} {show(self.value, self.dimension)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim, computed again."""

    claim: str
    """The document's words, without markup."""
    line: int
    quantity: str
    basis: str
    """model: from the model and hardware stated; own: from the document's other claims; arithmetic: a sum in the
    text; restated: a fact stated again; layout: what the degrees need."""
    claimed: str
    claimed_value: float | None
    """In the base unit; the upper end of a range; None for a list of GPUs or layers."""
    computed: str
    """Empty when nothing can be computed."""
    computed_value: float | None
    """The value, or the bound that the claim was held against."""
    judgement: Judgement
    factor: float | None
    """How far off, as a factor of at least 1; None where there is none, as with lists or a claim of 0."""
    formula: str
    """With the numbers substituted; then the source, the assumptions, or the reason why it cannot be computed."""

    @property
    def verdict(self) -> str:
        """The judgement for people: 'off ×4, too low'."""
        if self.factor is None or self.judgement in ("holds", "unverifiable"):
            return self.judgement
        if self.claimed_value is None or self.computed_value is None:
            return f"{self.judgement} ×{format_factor(self.factor)}"
        side = "high" if self.claimed_value > self.computed_value else "low"
        return f"{self.judgement} ×{format_factor(self.factor)}, too {side}"


@dataclass(frozen=True, slots=True)
class Unread:
    """A number that the audit does not understand."""

    line: int
    text: str
    number: str


@dataclass(frozen=True, slots=True)
class Audit:
    """A document's facts and the verdicts on its claims, in the order of its lines."""

    document: str
    facts: tuple[Fact, ...]
    verdicts: tuple[Verdict, ...]
    unread: tuple[Unread, ...]
    """Numbers of the document that no recogniser reads; they are not judged."""

    def count(self, judgement: Judgement) -> int:
        """Verdicts of one judgement."""
        return sum(verdict.judgement == judgement for verdict in self.verdicts)

    @property
    def summary(self) -> str:
        """One line for people."""
        if not self.verdicts:
            return f"{self.document}: no claim found that can be recomputed"
        kinds: tuple[Judgement, ...] = ("holds", "off", "impossible", "unverifiable")
        counts = ", ".join(f"{self.count(kind)} {kind}" for kind in kinds)
        rest = f"; {len(self.unread)} numbers not read" if self.unread else ""
        return f"{self.document}: {len(self.verdicts)} verdicts: {counts}{rest}"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the audit's table."""

    line: int
    claim: str
    computed: str
    verdict: str
    formula: str


def audit_rows(audit: Audit) -> tuple[Row, ...]:
    """The table of an audit: claim, computed, verdict, formula."""
    return tuple(Row(v.line, v.claim, v.computed or "–", v.verdict, v.formula) for v in audit.verdicts)


def format_factor(factor: float) -> str:
    """A factor for people: three digits, thousands apart."""
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def factor_between(claimed: float, computed: float) -> float | None:
    """How far apart two values are, as a factor of at least 1; None when either is 0 or their signs differ."""
    if claimed * computed <= 0:
        return None
    ratio = claimed / computed
    return max(ratio, 1 / ratio)


def show_amount(amount: Amount) -> str:
    """A claimed amount for people, its comparison and range included."""
    sign = "" if amount.compare == "=" else amount.compare + " "
    low = f"{show(amount.low, amount.dimension)} to " if amount.low != amount.high else ""
    return sign + low + show(amount.high, amount.dimension)


def show_members(members: tuple[int, ...]) -> str:
    """Ranks or layers for people: '0–15' or '0, 4, 8, …, 60'."""
    if not members:
        return "none"
    if members == tuple(range(members[0], members[-1] + 1)):
        return f"{members[0]}–{members[-1]}" if len(members) > 1 else str(members[0])
    if len(members) > 6:
        return f"{', '.join(map(str, members[:3]))}, …, {members[-1]}"
    return ", ".join(map(str, members))
