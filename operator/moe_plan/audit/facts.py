"""Which facts a document states: of several mentions of one quantity the most authoritative is believed."""

from collections.abc import Iterable, Mapping
from functools import cache

from moe_plan.audit.amounts import Amount
from moe_plan.audit.recognise import Mention, Reading, load, quantities
from moe_plan.audit.verdict import Fact, Origin
from moe_plan.errors import PlanError

STATED_AND_COMPUTED = frozenset({"gpus", "nodes"})
"""Facts that also follow from others, and so are judged where they are stated."""


@cache
def computed_quantities() -> frozenset[str]:
    """Quantities that a formula gives, or that no formula can tell: claims, not facts."""
    names: set[str] = {name for name, quantity in quantities().items() if quantity.only or quantity.unit == "members"}
    for entry in load("formulas.toml")["formula"]:
        names |= {entry["of"]} if isinstance(entry["of"], str) else set(entry["of"])
    return frozenset(names)


def is_fact(quantity: str) -> bool:
    """Whether a quantity is an input of the audit."""
    return quantity not in computed_quantities() or quantity in STATED_AND_COMPUTED


def find_facts(reading: Reading, given: Mapping[str, float]) -> dict[str, Fact]:
    """Facts by quantity: what the reader gives, else what numbers state, else what words imply.

    Raises PlanError when `given` names no fact.
    """
    facts = {name: _given(name, value) for name, value in given.items()}
    for mention in _by_authority(reading.mentions):
        if is_fact(mention.quantity) and mention.amount and mention.amount.high > 0:
            facts.setdefault(mention.quantity, _fact(mention, mention.amount, "stated"))
    for mention in reading.words:
        if mention.amount:
            facts.setdefault(mention.quantity, _fact(mention, mention.amount, "implied"))
    return facts


def find_claims(reading: Reading) -> dict[str, Amount]:
    """What the document claims of each computed quantity: its first plain claim, not a target such as '< 5%'."""
    claims: dict[str, Amount] = {}
    for mention in reading.mentions:
        if not is_fact(mention.quantity) and mention.amount and mention.amount.compare in ("=", "~"):
            claims.setdefault(mention.quantity, mention.amount)
    return claims


def _by_authority(mentions: Iterable[Mention]) -> list[Mention]:
    return sorted(mentions, key=lambda mention: -mention.authority)


def _fact(mention: Mention, amount: Amount, origin: Origin) -> Fact:
    quantity = quantities()[mention.quantity]
    return Fact(
        mention.quantity, quantity.label, amount.high, quantity.unit, origin, mention.line, mention.text, amount.binary
    )


def _given(name: str, value: float) -> Fact:
    quantity = quantities().get(name)
    if quantity is None or not is_fact(name) or not value > 0:
        known = ", ".join(sorted(filter(is_fact, quantities())))
        raise PlanError(f"{name}={value} is not a fact that an audit knows; facts are positive numbers of: {known}")
    return Fact(name, quantity.label, value, quantity.unit, "given", 0, "given by the reader")
