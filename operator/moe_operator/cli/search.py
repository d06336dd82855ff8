"""`moe search`: the best layouts for a manifest's model, GPUs and workload, as a table or as JSON."""

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe_operator.cli.plan import ConfigOption, ManifestOption, answer_all

if TYPE_CHECKING:
    from moe_plan.search.result import SearchResult
    from moe_plan.spec import MoEDeployment


class Output(StrEnum):
    """Forms of the answer."""

    TABLE = "table"
    JSON = "json"


class Kept(StrEnum):
    """Fields of the manifest that can be kept."""

    EP = "ep"
    TP = "tp"
    PP = "pp"
    REPLICAS = "replicas"
    REDUNDANT_EXPERTS = "redundantExperts"
    RANK_ORDER = "rankOrder"
    MICRO_BATCHES = "microBatches"


def search(
    filename: ManifestOption,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TABLE,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            min=1,
            max=1024,
            metavar="N",
            help="GPUs of all replicas at most. Default: as many as the manifest asks for.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[Kept] | None,
        typer.Option("--keep", help="A field to keep as the manifest has it; may be repeated.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Search all layouts of a manifest's model on its GPUs and print the best."""
    results = answer_all(filename, config, lambda deployment, held: _search(deployment, held, gpus, keep or []))
    if output is Output.TABLE:
        from moe_operator.cli.search_tables import search_lines

        print("\n\n".join("\n".join(search_lines(result)) for result in results))
        return
    data = [result.model_dump(mode="json") for result in results]
    print(json.dumps(data[0] if len(data) == 1 else data, indent=2, ensure_ascii=False))


def _search(deployment: "MoEDeployment", config: Any, gpus: int | None, keep: list[Kept]) -> "SearchResult":
    from moe_plan.search.compare import compare

    return compare(deployment, config, gpus, [kept.value for kept in keep])
