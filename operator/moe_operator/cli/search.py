"""`moe search`: the best layouts for a manifest's model, GPUs and workload, as a table or as JSON."""

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from moe_operator.cli.plan import Attached, ConfigOption, LoadsOption, ManifestOption, answer_all, read_attached

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from moe_plan.pools.given import GivenPool
    from moe_plan.pools.result import PoolsResult
    from moe_plan.search.result import SearchResult
    from moe_plan.spec import MoEDeployment

    Given = tuple[GivenPool, GivenPool]

_MOST = 10**6
"""Largest number that a given pool's field may have: beyond it is a slip of the pen."""


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
    pools: Annotated[  # noqa: FBT002  # a command's flag
        bool,
        typer.Option("--pools", help="Search prefill and decode on separate pools of GPUs instead: an estimate."),
    ] = False,
    prefill: Annotated[
        str | None,
        typer.Option(
            "--prefill", metavar="POOL", help="With --pools and --decode: a pool to predict, ep=8,tp=2,workers=4."
        ),
    ] = None,
    decode: Annotated[
        str | None, typer.Option("--decode", metavar="POOL", help="The same, for the pool that decodes.")
    ] = None,
    expert_loads: LoadsOption = None,
) -> None:
    """Search all layouts of a manifest's model on its GPUs and print the best."""
    kept = keep or []
    attached = read_attached(config, expert_loads)
    if pools:
        given = _given(prefill, decode)
        _refuse_replicas(kept)
        found = answer_all(filename, lambda deployment: _pools(deployment, attached, gpus, kept, given))
        _print_pools(found, output)
        return
    if prefill or decode:
        raise typer.BadParameter("names a pool, which needs --pools", param_hint="--prefill, --decode")
    results = answer_all(filename, lambda deployment: _search(deployment, attached, gpus, kept))
    if output is Output.TABLE:
        from moe_operator.cli.search_tables import search_lines

        print("\n\n".join("\n".join(search_lines(result)) for result in results))
        return
    _print_json(results)


def _print_json(results: "Sequence[BaseModel]") -> None:
    data = [result.model_dump(mode="json") for result in results]
    print(json.dumps(data[0] if len(data) == 1 else data, indent=2, ensure_ascii=False))


def _print_pools(results: "list[PoolsResult]", output: Output) -> None:
    if output is Output.JSON:
        _print_json(results)
        return
    from moe_operator.cli.pools_tables import pools_lines

    print("\n\n".join("\n".join(pools_lines(result)) for result in results))


def _search(deployment: "MoEDeployment", attached: Attached, gpus: int | None, keep: list[Kept]) -> "SearchResult":
    from moe_plan.search.compare import compare

    return compare(deployment, attached.config, gpus, [kept.value for kept in keep], attached.loads)


def _pools(
    deployment: "MoEDeployment", attached: Attached, gpus: int | None, keep: list[Kept], given: "Given | None"
) -> "PoolsResult":
    from moe_plan.pools.compare import compare_pools

    return compare_pools(deployment, attached.config, gpus, [kept.value for kept in keep], given, attached.loads)


def _refuse_replicas(keep: list[Kept]) -> None:
    if Kept.REPLICAS in keep:
        raise typer.BadParameter("pools have workers in the replicas' stead; drop --keep replicas", param_hint="--keep")


def _given(prefill: str | None, decode: str | None) -> "Given | None":
    """The two pools that are asked about; none where neither is."""
    if prefill is None and decode is None:
        return None
    if prefill is None or decode is None:
        raise typer.BadParameter("name both pools or neither", param_hint="--prefill, --decode")
    return _pool("prefill", prefill), _pool("decode", decode)


def _pool(name: str, text: str) -> "GivenPool":
    """A pool from 'ep=8,tp=2,workers=4'."""
    from moe_plan.pools.given import GivenPool

    fields = {"ep": "ep", "tp": "tp", "pp": "pp", "redundantExperts": "redundant", "workers": "workers"}
    values: dict[str, int] = {}
    for part in text.split(","):
        key, _, number = part.partition("=")
        least = 0 if key == "redundantExperts" else 1
        if key not in fields or fields[key] in values:
            _refuse_pool(name, f"{part!r} is not one of {', '.join(fields)}, each once, as in ep=8,tp=2,workers=4")
        if not (number.isascii() and number.isdecimal() and least <= int(number) <= _MOST):
            _refuse_pool(name, f"{key} must be a whole number from {least} to {_MOST:,}, not {number!r}")
        values[fields[key]] = int(number)
    if "ep" not in values:
        _refuse_pool(name, "ep is missing, as in ep=8,tp=2,workers=4")
    return GivenPool(name, **values)


def _refuse_pool(name: str, message: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=f"--{name}")
