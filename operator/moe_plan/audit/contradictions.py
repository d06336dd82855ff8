"""Claims of one quantity that cannot both be true, within a document or between documents on the same deployment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from moe_plan.audit.amounts import TOLERANCE
from moe_plan.audit.recognise import quantities
from moe_plan.audit.verdict import Audit, Verdict, factor_between, format_factor

DEPLOYMENT = ("layers", "experts", "hidden", "ffn", "gpus", "ep", "tp", "pp")
"""Facts that make two documents speak of one deployment."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two claims of one quantity."""

    quantity: str
    label: str
    first: tuple[str, Verdict]
    """Document and claim."""
    second: tuple[str, Verdict]
    factor: float | None

    def __str__(self) -> str:
        places = " and ".join(f"{v.claimed} ({document}:{v.line})" for document, v in (self.first, self.second))
        by = f", ×{format_factor(self.factor)}" if self.factor else ""
        return f"{self.label} is both {places}{by}"


def find_contradictions(audits: Sequence[Audit]) -> tuple[Contradiction, ...]:
    """Every pair of differing values, each value at its first place, for audits that state the same deployment."""
    found: list[Contradiction] = []
    for group in _same_deployment(audits):
        for quantity, claims in _plain_claims(group).items():
            found += [
                Contradiction(quantity, quantities()[quantity].label, one, two, _factor(one[1], two[1]))
                for one, two in combinations(claims, 2)
            ]
    return tuple(found)


def _same_deployment(audits: Sequence[Audit]) -> Iterator[list[Audit]]:
    groups: dict[tuple[float | None, ...], list[Audit]] = {}
    for audit in audits:
        stated = {"tp": 1.0, "pp": 1.0} | {
            fact.quantity: fact.value for fact in audit.facts if fact.origin != "assumed"
        }
        groups.setdefault(tuple(stated.get(name) for name in DEPLOYMENT), []).append(audit)
    yield from groups.values()


def _plain_claims(audits: Sequence[Audit]) -> dict[str, list[tuple[str, Verdict]]]:
    """Claims that are neither targets nor ranges, one a value."""
    claims: dict[str, list[tuple[str, Verdict]]] = {}
    for audit in audits:
        for verdict in audit.verdicts:
            if (
                verdict.basis != "model"
                or verdict.claimed_value is None
                or verdict.claimed[:1] in "<>"
                or " to " in verdict.claimed
            ):
                continue
            known = claims.setdefault(verdict.quantity, [])
            if not any(_close(verdict, other) for _, other in known):
                known.append((audit.document, verdict))
    return claims


def _close(one: Verdict, two: Verdict) -> bool:
    assert one.claimed_value is not None
    assert two.claimed_value is not None
    larger = max(abs(one.claimed_value), abs(two.claimed_value))
    return abs(one.claimed_value - two.claimed_value) <= TOLERANCE * larger


def _factor(one: Verdict, two: Verdict) -> float | None:
    assert one.claimed_value is not None
    assert two.claimed_value is not None
    return factor_between(one.claimed_value, two.claimed_value)
