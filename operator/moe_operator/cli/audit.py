"""`moe audit`: every number that a strategy document claims, computed again."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from moe_operator.cli.tables import WIDTH

if TYPE_CHECKING:
    from moe_plan.audit import Audit, Row

_CLAIM, _COMPUTED = 48, 18
"""Columns of the table; the verdict has the rest."""


def audit(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Strategy documents; - for standard input.", show_default=False)
    ],
    given: Annotated[
        list[str],
        typer.Option(
            "--given", metavar="FACT=VALUE", help="A fact that the documents omit, such as peak_flops=400e12."
        ),
    ] = [],  # noqa: B006  # typer reads it, nobody writes it
) -> None:
    """Recompute the numbers that documents claim: claim, computed value, verdict, formula."""
    from moe_operator.cli.documents import read_text
    from moe_plan.audit import audit_document, find_contradictions

    facts = dict(map(_fact, given))
    audits = [audit_document(origin, text, facts) for origin, text in map(read_text, files)]
    for audited in audits:
        print("\n".join(_document_lines(audited)), end="\n\n")
    contradictions = find_contradictions(audits)
    if contradictions:
        print("contradictions between claims")
        print("\n".join(_wrapped(map(str, contradictions), indent="  ")), end="\n\n")
    print("\n".join(_wrapped((audited.summary for audited in audits), indent="")))


def _fact(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise typer.BadParameter(f"{text} is not FACT=NUMBER", param_hint="--given") from None


def _document_lines(audited: "Audit") -> list[str]:
    from moe_plan.audit import audit_rows

    facts = [f"{fact} ({fact.origin})" for fact in audited.facts]
    head = [audited.document, *_wrapped([f"facts: {', '.join(facts)}"], indent="  ")] if facts else [audited.document]
    rows = [line for row in audit_rows(audited) for line in _row_lines(row)]
    header = f"{'line':>5}  {'claim':<{_CLAIM}}  {'computed':<{_COMPUTED}}  verdict"
    return [*head, "", header, "─" * WIDTH, *rows] if rows else head


def _row_lines(row: "Row") -> list[str]:
    """The claim, wrapped within its column beside its verdict; the formula below."""
    columns = [
        [f"{row.line:>5}"],
        textwrap.wrap(row.claim, _CLAIM),
        textwrap.wrap(row.computed, _COMPUTED),
        textwrap.wrap(row.verdict, WIDTH - _CLAIM - _COMPUTED - 11),
    ]
    height = max(map(len, columns))
    padded = [cells + [""] * (height - len(cells)) for cells in columns]
    beside = [
        f"{line:>5}  {claim:<{_CLAIM}}  {computed:<{_COMPUTED}}  {verdict}".rstrip()
        for line, claim, computed, verdict in zip(*padded, strict=True)
    ]
    return [*beside, *_wrapped([row.formula], indent=" " * 9)]


def _wrapped(texts: Iterable[str], indent: str) -> list[str]:
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
    ]
