"""Holds each claim against what is computed: holds, off by a factor, impossible, or not to be verified."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_plan.audit.amounts import TOLERANCE, Amount, agrees, show
from moe_plan.audit.arithmetic import Sum
from moe_plan.audit.evaluate import NotArithmeticError, evaluate
from moe_plan.audit.facts import STATED_AND_COMPUTED, is_fact
from moe_plan.audit.formulas import MODEL, Case, Computed, Rule, UnknownQuantityError, rules
from moe_plan.audit.ranks import Assignment
from moe_plan.audit.recognise import Mention, quantities
from moe_plan.audit.verdict import Fact, Judgement, Verdict, factor_between, show_amount, show_members

OWN = ("own", "own parameters")
_CLAIMED = "claimed_"
_OPERATOR = re.compile(r" [×/+−^] | mod ")


@dataclass(frozen=True, slots=True)
class Finding:
    """A judgement and the value that decided it."""

    judgement: Judgement
    against: float | None
    factor: float | None = None


def judge(mention: Mention, case: Case, assignment: Assignment | None) -> Iterator[Verdict]:
    """The verdicts on one number of the document."""
    if mention.amount is None:
        yield judge_members(mention, assignment)
    elif quantities()[mention.quantity].only:
        yield _unverifiable(mention, mention.amount, MODEL, quantities()[mention.quantity].only)
    elif is_fact(mention.quantity) and mention.quantity not in STATED_AND_COMPUTED:
        yield from _judge_fact(mention, mention.amount, case)
    else:
        yield _judge_computed(mention, mention.amount, MODEL, case)


def judge_own(mention: Mention, case: Case) -> Iterator[Verdict]:
    """The verdicts on one number by the document's other claims; none where it claims nothing to hold it against."""
    for basis in OWN:
        if mention.amount and not _lacks(case, mention.quantity, basis):
            verdict = _judge_computed(mention, mention.amount, basis, case)
            if verdict.judgement != "unverifiable":
                yield verdict


def judge_sum(total: Sum) -> Verdict:
    """The verdict on a sum that the document writes out."""
    computed = Computed(total.computed, total.computed, None, None, total.text, "", "")
    finding, units = _in_either_units(total.claimed, (computed, computed))
    return Verdict(
        total.text,
        total.line,
        "arithmetic",
        "arithmetic",
        show_amount(total.claimed),
        total.claimed.high,
        show(total.computed, total.claimed.dimension),
        total.computed,
        finding.judgement,
        finding.factor,
        f"comes to {show(total.computed, total.claimed.dimension)}{units}",
    )


def judge_members(mention: Mention, assignment: Assignment | None) -> Verdict:
    """The verdict on a list of GPUs or layers."""
    index = "" if mention.quantity == "ep_peers" else f" {mention.index}"
    label = quantities()[mention.quantity].label + index
    computed = assignment.members(mention.quantity, mention.index) if assignment else ()
    judgement: Judgement = "unverifiable" if not computed else "holds" if computed == mention.members else "off"
    order = ", ".join(assignment.layout.rank_order) if assignment else ""
    ranks = "" if mention.quantity == "stage_layers" else f", rank order {order}"
    formula = f"{label}: {show_members(computed)}{ranks}" if computed else "not stated: the degrees, or no such group"
    return Verdict(
        mention.text,
        mention.line,
        mention.quantity,
        "layout",
        show_members(mention.members),
        None,
        show_members(computed) if computed else "",
        None,
        judgement,
        None,
        formula,
    )


def _judge_fact(mention: Mention, claimed: Amount, case: Case) -> Iterator[Verdict]:
    fact = case.facts.get(mention.quantity)
    if fact is None:
        return
    if (fact.line, fact.text, fact.value) == (mention.line, mention.text, claimed.high):
        for rule in rules().get(mention.quantity, ()):
            yield from _judge_rule(mention, claimed, rule, case)
    else:
        yield _judge_restated(mention, claimed, fact)


def _judge_restated(mention: Mention, claimed: Amount, fact: Fact) -> Verdict:
    where = f"line {fact.line} states" if fact.line else "given:"
    computed = Computed(fact.value, fact.value, None, None, "", "", "")
    finding = _find(claimed, computed)
    shown = _show_computed(claimed.dimension, computed, finding)
    return _row(mention, claimed, "restated", finding, f"{where} {fact}", shown)


def _judge_rule(mention: Mention, claimed: Amount, rule: Rule, case: Case) -> Iterator[Verdict]:
    try:
        rest = evaluate(rule.zero, case.value)
        factor = evaluate(rule.factor, case.value) if rule.factor and rest else None
    except (UnknownQuantityError, NotArithmeticError):
        return
    formula = f"{rule.says}: {case.write(rule.zero)} = {rest:g}"
    finding = Finding("impossible" if rest else "holds", None, factor if factor and factor >= 1 else None)
    yield _row(mention, claimed, "layout", finding, formula, f"{rest:g} left over")


def _judge_computed(mention: Mention, claimed: Amount, basis: str, case: Case) -> Verdict:
    decimal, binary = case.afresh(), case.in_binary()
    try:
        pair = decimal.compute(mention.quantity, basis), binary.compute(mention.quantity, basis)
    except (UnknownQuantityError, NotArithmeticError) as error:
        return _unverifiable(mention, claimed, basis, _why(error))
    finding, units = _in_either_units(claimed, pair)
    used = binary if units else decimal
    case.assumed.update(used.assumed)
    computed = pair[1] if units else pair[0]
    formula = _explain(claimed, computed, used) + units
    return _row(mention, claimed, basis, finding, formula, _show_computed(claimed.dimension, computed, finding))


def _in_either_units(claimed: Amount, pair: tuple[Computed, Computed]) -> tuple[Finding, str]:
    """The finding with MB as 10⁶ bytes, or as 2²⁰ where only that bears the claim out."""
    decimal = _find(claimed, pair[0])
    if decimal.judgement in ("off", "impossible") and claimed.dimension in ("bytes", "fraction"):
        binary = _find(_times(claimed, claimed.binary), pair[1])
        if binary.judgement == "holds":
            return binary, "; MB and GB read as powers of two"
    return decimal, ""


def _times(amount: Amount, factor: float) -> Amount:
    return Amount(
        amount.dimension, amount.low * factor, amount.high * factor, amount.digit * factor, 1.0, amount.compare
    )


def _find(claimed: Amount, computed: Computed) -> Finding:
    """Bounds first, since nothing beyond them can be; then the value or range."""
    if computed.ceiling is not None and claimed.compare != "<" and claimed.low > computed.ceiling * (1 + TOLERANCE):
        return _off("impossible", claimed.low, computed.ceiling)
    if computed.floor is not None and claimed.compare != ">" and claimed.high < computed.floor * (1 - TOLERANCE):
        return _off("impossible", claimed.high, computed.floor)
    if computed.low is None or computed.high is None:
        return Finding("unverifiable", None)
    nearest = min(max(claimed.high, computed.low), computed.high)
    against = computed.low if claimed.compare == "<" else computed.high if claimed.compare == ">" else nearest
    if agrees(claimed, against):
        return Finding("holds", against, 1.0)
    return _off("off", claimed.low if against < claimed.low else claimed.high, against)


def _off(judgement: Judgement, claimed: float, against: float) -> Finding:
    return Finding(judgement, against, factor_between(claimed, against))


def _row(mention: Mention, claimed: Amount, basis: str, finding: Finding, formula: str, computed: str = "") -> Verdict:
    return Verdict(
        mention.text,
        mention.line,
        mention.quantity,
        basis,
        show_amount(claimed),
        claimed.high,
        computed,
        finding.against,
        finding.judgement,
        finding.factor,
        formula,
    )


def _show_computed(dimension: str, computed: Computed, finding: Finding) -> str:
    if finding.against is not None and finding.against in (computed.floor, computed.ceiling):
        return f"at {'least' if finding.against == computed.floor else 'most'} {show(finding.against, dimension)}"
    if computed.low is not None and computed.high is not None:
        low = "" if computed.low == computed.high else f"{show(computed.low, dimension)} to "
        return low + show(computed.high, dimension)
    return ""


def _explain(claimed: Amount, computed: Computed, case: Case) -> str:
    """The formula with its numbers, then bounds, source and assumptions."""
    parts = []
    if computed.low is not None and computed.high is not None:
        low = "" if computed.low == computed.high else f"{show(computed.low, claimed.dimension)} to "
        result = low + show(computed.high, claimed.dimension)
        parts.append(f"{computed.text} = {result}" if _OPERATOR.search(computed.text) else computed.text)
    if computed.bounds and (not parts or _OPERATOR.search(computed.bounds)):
        bounds = [bound for bound in (computed.floor, computed.ceiling) if bound is not None]
        parts.append(f"{computed.bounds} = {' and '.join(show(bound, claimed.dimension) for bound in bounds)}")
    parts += [computed.source] if computed.source else []
    if case.assumed:
        parts.append("assumed: " + ", ".join(_assumption(name, value) for name, value in sorted(case.assumed.items())))
    return "; ".join(parts)


def _assumption(name: str, value: float) -> str:
    quantity = quantities()[name]
    return f"{quantity.label} {show(value, quantity.unit)}"


def _unverifiable(mention: Mention, claimed: Amount, basis: str, why: str) -> Verdict:
    return _row(mention, claimed, basis, Finding("unverifiable", None), why)


def _why(error: UnknownQuantityError | NotArithmeticError) -> str:
    if isinstance(error, NotArithmeticError):
        return str(error)
    plain = error.name.removeprefix(_CLAIMED)
    label = quantities()[plain].label if plain in quantities() else plain.replace("_", " ")
    return f"not claimed: {label}" if plain != error.name else f"not stated: {label}"


def _lacks(case: Case, quantity: str, basis: str) -> bool:
    try:
        case.afresh().compute(quantity, basis)
    except (UnknownQuantityError, NotArithmeticError):
        return True
    return False


def first_of_each(mentions: Sequence[Mention]) -> Iterator[Mention]:
    """The first mention of each value of each quantity."""
    seen: set[tuple[str, float, float]] = set()
    for mention in mentions:
        amount = mention.amount
        key = (mention.quantity, amount.low, amount.high) if amount else (mention.quantity, math.nan, mention.index)
        if key not in seen:
            seen.add(key)
            yield mention
