"""`moe report`: a plan as documents to read, keep and check: a page, a guide, the strategy and its verification."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_operator.cli.plan import ConfigOption, LoadsOption, ManifestOption, prove_all, read_attached
from moe_plan.errors import PlanError

if TYPE_CHECKING:
    from moe_operator.report.material import Material
    from moe_plan.audit import Audit

VERIFY_DEADLINE_S = 120
SOURCE = Path(__file__).parent.parent / "report" / "verify.py"


class VerificationError(PlanError):
    """verify.py does not bear the strategy out, or did not answer."""


def report(
    filename: ManifestOption,
    directory: Annotated[
        Path,
        typer.Option("-d", "--directory", metavar="DIR", help="Folder for the documents.", show_default=False),
    ],
    claims: Annotated[
        list[str],
        typer.Option("--claims", metavar="DOC", help="A strategy document to audit; may be given more than once."),
    ] = [],  # noqa: B006  # typer reads it, nobody writes it
    config: ConfigOption = None,
    expert_loads: LoadsOption = None,
) -> None:
    """Write a plan's report: page, guide, strategy, and a script that verifies it."""
    attached = read_attached(config, expert_loads)
    proved = prove_all(filename, attached)
    audits = _audit(claims)
    folders = _folders([plan.name for _, plan in proved], directory)
    _refuse_others_files(folders)
    refuted = []
    for folder, (deployment, plan) in zip(folders, proved, strict=True):
        from moe_operator.report.material import gather

        refuted += _write(folder, gather(deployment, plan, attached.config, audits, attached.loads))
        print(folder / "report.html")
    if refuted:
        raise VerificationError("verify.py refutes the plan, which is a defect of moe: " + "; ".join(refuted))


def _audit(claims: list[str]) -> "list[Audit]":
    from moe_operator.cli.documents import read_text
    from moe_plan.audit import audit_document

    return [audit_document(Path(origin).name, text) for origin, text in map(read_text, claims)]


def _folders(names: list[str], directory: Path) -> list[Path]:
    """The folder itself for one deployment; for several a folder each, by name."""
    if len(names) == 1:
        return [directory]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise PlanError(f"two deployments are named {name}; each needs a folder of its own in {directory}")
    return [directory / name for name in names]


def _refuse_others_files(folders: list[Path]) -> None:
    from moe_operator.report.files import others_files

    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if others := others_files(folder):
            names = ", ".join(path.name for path in others)
            raise typer.BadParameter(
                f"{folder} has {names}, not written by moe report; name another folder", param_hint="-d"
            )


def _write(folder: Path, material: "Material") -> list[str]:
    """Make and write the documents of one deployment; what verify.py refutes."""
    from moe_operator.report.files import replace_all
    from moe_operator.report.guide import guide
    from moe_operator.report.page import page
    from moe_operator.report.strategy import strategy_json

    strategy = strategy_json(material)
    answer = _verify(strategy)
    verification = json.loads(answer)
    replace_all(
        folder,
        {
            "strategy.json": strategy,
            "implementation_guide.md": guide(material),
            "verification.json": answer,
            "verify.py": SOURCE.read_text(encoding="utf-8"),
            "report.html": page(material, verification),
        },
    )
    return [f"{check['check']}: {check['detail']}" for check in verification["checks"] if not check["holds"]]


def _verify(strategy: str) -> str:
    """What verify.py prints of a strategy, run as its own process. Raises VerificationError where it does not."""
    with tempfile.TemporaryDirectory(prefix="moe-report-") as aside:
        file = Path(aside) / "strategy.json"
        file.write_text(strategy, encoding="utf-8", newline="\n")
        command = [sys.executable, "-I", str(SOURCE), str(file), "--json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=VERIFY_DEADLINE_S)  # noqa: S603  # our own script
        except subprocess.TimeoutExpired:
            raise VerificationError(f"verify.py did not answer within {VERIFY_DEADLINE_S} s") from None
    if not done.stdout:
        raise VerificationError(f"verify.py failed: {done.stderr.strip()}")
    return done.stdout
