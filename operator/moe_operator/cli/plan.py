"""`moe plan`: the proof of a manifest, as a table or as the plan itself."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from moe_plan.errors import ManifestError, Violation

if TYPE_CHECKING:
    from moe_plan.loads import ExpertLoads
    from moe_plan.plan import Plan
    from moe_plan.spec import MoEDeployment

Answer = TypeVar("Answer")


class Output(StrEnum):
    """Forms of the plan."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


ManifestOption = Annotated[
    str,
    typer.Option(
        "-f", "--filename", metavar="FILE", help="Manifest, YAML or JSON; - for standard input.", show_default=False
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The config.json that spec.model.configFrom names.",
        exists=True,
        dir_okay=False,
    ),
]
LoadsOption = Annotated[
    Path | None,
    typer.Option(
        "--expert-loads",
        metavar="FILE",
        help="Measured expert loads to plan by, as moe loads writes them.",
        exists=True,
        dir_okay=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Attached:
    """What a manifest refers to and does not hold, read from files."""

    config: Any = None
    """The config.json."""
    loads: "ExpertLoads | None" = None
    """Measured expert loads."""


def plan(
    filename: ManifestOption,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TABLE,
    config: ConfigOption = None,
    expert_loads: LoadsOption = None,
) -> None:
    """Prove a manifest and print its plan."""
    attached = read_attached(config, expert_loads)
    proved = prove_all(filename, attached)
    if output is Output.TABLE:
        _print_tables(proved, attached)
        return
    plans = [one for _, one in proved]
    data: list[dict[str, Any]] = [one.model_dump(mode="json") for one in plans]
    answer = data[0] if len(data) == 1 else data
    if output is Output.JSON:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        import yaml

        yaml.safe_dump(answer, sys.stdout, sort_keys=False, allow_unicode=True)


def read_attached(config: Path | None, expert_loads: Path | None) -> Attached:
    """The contents of the files that are given. Raises ManifestError for one that cannot be read as what it should be."""
    from moe_operator.cli.documents import parse_value, read_text

    loads = None
    if expert_loads is not None:
        from moe_plan.loads import parse_loads

        origin, text = read_text(str(expert_loads))
        loads = parse_loads(text, origin)
    return Attached(None if config is None else parse_value(config.read_text(), str(config)), loads)


def prove_all(filename: str, attached: Attached) -> list[tuple["MoEDeployment", "Plan"]]:
    """Deployment and plan of every MoEDeployment in a file. Raises ManifestError with the reasons of all that fail."""
    from moe_plan.planner import make_plan

    return answer_all(
        filename, lambda deployment: (deployment, make_plan(deployment, attached.config, loads=attached.loads))
    )


def answer_all(filename: str, answer: Callable[["MoEDeployment"], Answer]) -> list[Answer]:
    """An answer for every MoEDeployment in a file. Raises ManifestError with the reasons of all that fail."""
    from moe_operator.cli.documents import parse, read_text
    from moe_plan.manifest import parse_deployment

    origin, text = read_text(filename)
    documents = parse(text, origin)
    answers, violations, nearest = [], [], []
    for document in documents:
        try:
            answers.append(answer(parse_deployment(document.data)))
        except ManifestError as error:
            prefix = f"{document.origin}: " if len(documents) == 1 else f"{document.origin}: {document.name}: "
            violations += [Violation(prefix + v.field, v.code, v.message, v.remedy) for v in error.violations]
            nearest += [layout if len(documents) == 1 else f"{document.name}: {layout}" for layout in error.nearest]
    if violations:
        raise ManifestError(tuple(violations), tuple(nearest))
    return answers


def _print_tables(proved: "list[tuple[MoEDeployment, Plan]]", attached: Attached) -> None:
    from moe_operator.cli.tables import plan_lines

    print("\n\n".join("\n".join([*plan_lines(one), *_loads_lines(of, one, attached)]) for of, one in proved))


def _loads_lines(deployment: "MoEDeployment", plan: "Plan", attached: Attached) -> list[str]:
    """What copies of experts would bring under the measured loads, where there are any."""
    if attached.loads is None:
        return []
    from moe_operator.cli.loads_table import copies_lines
    from moe_plan.search.redundancy import with_copies_of

    return ["", *copies_lines(plan, with_copies_of(deployment, plan, attached.config, attached.loads))]
