"""The `moe` command. Each command imports what it needs when it runs, so that `moe plan` starts at once."""

import sys
from typing import NoReturn

import typer

from moe_operator.cli import audit, crd, estimate, loads, operator, plan, report, run, search
from moe_plan.errors import ManifestError, PlanError

app = typer.Typer(
    name="moe",
    help="Plan, prove and run Mixture-of-Experts deployments.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("plan")(plan.plan)
app.command("search")(search.search)
app.command("estimate")(estimate.estimate)
app.command("report")(report.report)
app.command("loads")(loads.loads)
app.command("audit")(audit.audit)
app.command("crd")(crd.crd)
app.command("run")(run.run)
app.command("serve")(run.serve)
app.command("generate")(run.generate)
app.command("bench", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(run.bench)
app.add_typer(operator.app)

__all__ = ["app", "main"]


def main() -> NoReturn:
    """Entry point: exit 0 done, 1 unacceptable input with its reasons on stderr, 2 wrong use."""
    try:
        app()
    except ManifestError as error:
        _explain(error)
        sys.exit(1)
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        print(f"moe: {error.filename}: {error.strerror}" if error.filename else f"moe: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _explain(error: ManifestError) -> None:
    for violation in error.violations:
        print(f"error: {violation}", file=sys.stderr)
    if error.nearest:
        print("nearest layouts that work:", file=sys.stderr)
        for layout in error.nearest:
            print(f"  {layout}", file=sys.stderr)
