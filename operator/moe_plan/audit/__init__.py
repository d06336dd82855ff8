"""Recomputes every number that a strategy document claims, from the model and hardware that it states itself.

Text in, verdicts out: `lines` and `recognise` read the document, `facts` decides what it states, `formulas` computes
what follows, `judge` compares. What it looks for and how it computes is in the TOML files beside the code.
"""

from collections.abc import Mapping

from moe_plan.audit.arithmetic import find_sums
from moe_plan.audit.contradictions import Contradiction, find_contradictions
from moe_plan.audit.facts import find_claims, find_facts
from moe_plan.audit.formulas import Case
from moe_plan.audit.judge import first_of_each, judge, judge_own, judge_sum
from moe_plan.audit.lines import read_lines
from moe_plan.audit.ranks import find_assignment
from moe_plan.audit.recognise import quantities, recognise, unread
from moe_plan.audit.verdict import Audit, Fact, Judgement, Row, Unread, Verdict, audit_rows
from moe_plan.errors import PlanError

__all__ = [
    "Audit",
    "Contradiction",
    "Fact",
    "Judgement",
    "Row",
    "Unread",
    "Verdict",
    "audit_document",
    "audit_rows",
    "find_contradictions",
]

MAX_CHARACTERS = 200_000


def audit_document(name: str, text: str, given: Mapping[str, float] | None = None) -> Audit:
    """Judge a document's claims. `given` are facts that the reader knows, in base units, such as peak_flops=400e12.

    Raises PlanError when the document is longer than MAX_CHARACTERS or `given` names no fact.
    """
    if len(text) > MAX_CHARACTERS:
        raise PlanError(f"{name} has {len(text):,} characters; a strategy document has at most {MAX_CHARACTERS:,}")
    lines = read_lines(text)
    reading, sums = recognise(lines), find_sums(lines)
    facts = find_facts(reading, given or {})
    assignment = find_assignment(facts, reading.mentions)
    case = Case(facts, find_claims(reading), assignment.numbers() if assignment else {})
    verdicts = [verdict for mention in reading.mentions for verdict in judge(mention, case, assignment)]
    verdicts += [verdict for mention in first_of_each(reading.mentions) for verdict in judge_own(mention, case)]
    verdicts += [judge_sum(total) for total in sums.found]
    return Audit(
        name,
        (*facts.values(), *_assumptions(case)),
        tuple(sorted(verdicts, key=lambda verdict: verdict.line)),
        unread(lines, reading.spans | sums.spans),
    )


def _assumptions(case: Case) -> tuple[Fact, ...]:
    """What the formulas assumed since the document does not say."""
    labels = {name: quantities()[name] for name in case.assumed}
    return tuple(
        Fact(name, labels[name].label, value, labels[name].unit, "assumed", 0, "not stated; the least work is assumed")
        for name, value in sorted(case.assumed.items())
    )
