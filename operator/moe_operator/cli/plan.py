"""`moe plan`: the proof of a manifest, as a table or as the plan itself."""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from moe_plan.errors import ManifestError, Violation

if TYPE_CHECKING:
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


def plan(
    filename: ManifestOption,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TABLE,
    config: ConfigOption = None,
) -> None:
    """Prove a manifest and print its plan."""
    plans = [proved for _, proved in prove_all(filename, config)]
    if output is Output.TABLE:
        _print_tables(plans)
        return
    data: list[dict[str, Any]] = [proved.model_dump(mode="json") for proved in plans]
    answer = data[0] if len(data) == 1 else data
    if output is Output.JSON:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        import yaml

        yaml.safe_dump(answer, sys.stdout, sort_keys=False, allow_unicode=True)


def prove_all(filename: str, config: Path | None) -> list[tuple["MoEDeployment", "Plan"]]:
    """Deployment and plan of every MoEDeployment in a file. Raises ManifestError with the reasons of all that fail."""
    from moe_plan.planner import make_plan

    return answer_all(
        filename, config, lambda deployment, config_json: (deployment, make_plan(deployment, config_json))
    )


def answer_all(filename: str, config: Path | None, answer: Callable[["MoEDeployment", Any], Answer]) -> list[Answer]:
    """An answer for every MoEDeployment in a file, asked with the content of the file that holds its config.json.

    Raises ManifestError with the reasons of all that fail.
    """
    from moe_operator.cli.documents import parse, parse_value, read_text
    from moe_plan.manifest import parse_deployment

    origin, text = read_text(filename)
    documents = parse(text, origin)
    config_json = None if config is None else parse_value(config.read_text(), str(config))
    answers, violations, nearest = [], [], []
    for document in documents:
        try:
            answers.append(answer(parse_deployment(document.data), config_json))
        except ManifestError as error:
            prefix = f"{document.origin}: " if len(documents) == 1 else f"{document.origin}: {document.name}: "
            violations += [Violation(prefix + v.field, v.code, v.message, v.remedy) for v in error.violations]
            nearest += [layout if len(documents) == 1 else f"{document.name}: {layout}" for layout in error.nearest]
    if violations:
        raise ManifestError(tuple(violations), tuple(nearest))
    return answers


def _print_tables(plans: "list[Plan]") -> None:
    from moe_operator.cli.tables import plan_lines

    print("\n\n".join("\n".join(plan_lines(proved)) for proved in plans))
