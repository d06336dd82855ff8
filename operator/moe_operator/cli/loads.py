"""`moe loads`: save which experts a running deployment uses, for a plan to deal them by."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe_plan.errors import PlanError

if TYPE_CHECKING:
    from moe_plan.loads import ExpertLoads

PATH = "/expert-loads"
DEADLINE_S = 30.0
MAX_BYTES = 16 * 2**20


class EndpointError(PlanError):
    """An endpoint does not tell its expert loads."""


def loads(
    urls: Annotated[
        list[str],
        typer.Option(
            "--url", metavar="URL", help="An endpoint, such as http://127.0.0.1:8000; repeated for several replicas."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where they are written; default: standard output."),
    ] = None,
) -> None:
    """Save the expert loads that endpoints have measured, those of several replicas added up."""
    from moe_plan.loads import add_up

    try:
        whole = add_up(_ask(url) for url in urls)
    except ValueError as error:
        raise EndpointError(f"{error}; name the replicas of one deployment") from None
    if not whole.tokens:
        raise EndpointError(f"{', '.join(urls)}: nothing has been computed yet; serve requests for a while first")
    if output is None:
        print(_text(whole))
        return
    output.write_text(_text(whole) + "\n", encoding="utf-8")
    print(f"{output}: {whole.tokens:,} tokens since {whole.since:%Y-%m-%d %H:%M} UTC, {len(whole.layers)} MoE layers")


def _text(whole: "ExpertLoads") -> str:
    """JSON with a line for each layer."""
    data = whole.model_dump(mode="json")
    layers = ",\n".join(f'    "{layer}": {json.dumps(counts)}' for layer, counts in data.pop("layers").items())
    head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in data.items())
    return f'{{\n{head}  "layers": {{\n{layers}\n  }}\n}}'


def _ask(url: str) -> "ExpertLoads":
    """The loads of one endpoint. Raises EndpointError where it does not tell any, ManifestError where it tells nonsense."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlsplit
    from urllib.request import urlopen

    from moe_plan.loads import parse_loads

    if urlsplit(url).scheme not in {"http", "https"}:
        raise typer.BadParameter(f"{url} is not a URL; write http://HOST:PORT", param_hint="--url")
    try:
        with urlopen(url.rstrip("/") + PATH, timeout=DEADLINE_S) as answer:  # noqa: S310  # its scheme is checked above
            return parse_loads(answer.read(MAX_BYTES).decode(), url)
    except HTTPError as error:
        remedy = "is it the bundled runtime, and of this version?" if error.code == 404 else "is it ready?"
        raise EndpointError(f"{url}{PATH} answers {error.code} {error.reason}; {remedy}") from None
    except (URLError, HTTPException, OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise EndpointError(f"{url} does not answer: {reason}; is it the address of a running deployment?") from None
