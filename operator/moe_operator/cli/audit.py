"""`moe audit`: every number that a strategy document claims, computed again."""

from typing import Annotated

import typer


def audit(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Strategy documents; - for standard input.", show_default=False)
    ],
) -> None:
    """Recompute the numbers that documents claim: claim, computed value, verdict, formula."""
    from moe_operator.cli.documents import read_text
    from moe_operator.cli.tables import audit_lines
    from moe_plan.audit import audit_document

    for i, (origin, text) in enumerate([read_text(file) for file in files]):
        print("\n" * bool(i) + "\n".join(audit_lines(audit_document(origin, text))))
