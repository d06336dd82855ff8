"""`kubectl moe`: the commands. Each reads what it needs of the cluster and prints what a pure module makes of it."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from moe_operator.kubectl import holders
from moe_operator.kubectl.lines import of_rank, of_stage
from moe_plan.errors import PlanError

if TYPE_CHECKING:
    from moe_operator.kubectl.cluster import Cluster
    from moe_operator.kubectl.load import Readings
    from moe_operator.reconcile.model import Object
    from moe_plan.plan import Plan

WATCH_PACE_S = 2.0
PROGRAM = "kubectl-moe"

app = typer.Typer(
    name="kubectl moe",
    help="What a cluster's MoEDeployments do, and why.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Output(StrEnum):
    """Forms of a plan."""

    TABLE = "table"
    JSON = "json"


def _names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of deployments, for the shell; none where the cluster does not say."""
    given = context.params
    try:
        names = _cluster(given.get("kubeconfig"), given.get("context"), given.get("namespace")).deployment_names()
    except PlanError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the MoEDeployment.", autocompletion=_names, show_default=False)
]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", metavar="NAME", help="Namespace; default: the context's.")
]
Context = Annotated[str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.")]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="FILE", help="Default: $KUBECONFIG, or ~/.kube/config.")
]
Replica = Annotated[int, typer.Option("--replica", min=0, metavar="N", help="Index of the replica.")]


@app.command()
def plan(
    name: Name,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the answer.")] = Output.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the plan that the operator made of a deployment."""
    from moe_operator.cli.tables import plan_lines  # noqa: PLC0415  # a command imports what it needs when it runs

    cluster = _cluster(kubeconfig, context, namespace)
    found = holders.plan_of(cluster.deployment(name), cluster.config_maps(name))
    if output is Output.JSON:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        _print(plan_lines(found))


@app.command()
def status(
    name: Name,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on until interrupted.")] = False,  # noqa: FBT002  # an option of the command line
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show replicas, nodes, scores, restarts, and predicted beside measured speed."""
    from moe_operator.kubectl.status import status_lines  # noqa: PLC0415  # as above

    cluster = _cluster(kubeconfig, context, namespace)
    if watch:
        _watch(lambda: status_lines(cluster.deployment(name)))
    else:
        _print(status_lines(cluster.deployment(name)))


@app.command()
def why(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Say why a deployment is not ready, in the order in which to act, and what its worst pod said last."""
    from moe_operator.kubectl.why import is_ready, why_lines, worst_pod  # noqa: PLC0415  # as above

    cluster = _cluster(kubeconfig, context, namespace)
    deployment = cluster.deployment(name)
    worst = None if is_ready(deployment) else worst_pod(cluster.pods(name))
    last = _last_line(cluster, worst.pod, worst.container) if worst else ""
    _print(why_lines(deployment, worst, last))


@app.command()
def logs(
    name: Name,
    rank: Annotated[int | None, typer.Option("--rank", metavar="R", help="The rank whose pod is read.")] = None,
    stage: Annotated[int | None, typer.Option("--stage", metavar="S", help="The stage whose pods are read.")] = None,
    replica: Replica = 0,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, metavar="N", help="Only the last N lines of each pod.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the pod ends.")] = False,  # noqa: FBT002  # as above
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what a rank and its pod say, or what a stage's ranks and their pods say."""
    if (rank is None) == (stage is None):
        raise typer.BadParameter("give one of the two", param_hint="--rank / --stage")
    cluster = _cluster(kubeconfig, context, namespace)
    found = holders.plan_of(cluster.deployment(name), cluster.config_maps(name), replica)
    slots = (holders.slot_of_rank(found, rank),) if rank is not None else holders.slots_of_stage(found, stage or 0)
    if follow and len(slots) > 1:
        raise typer.BadParameter(
            f"stage {stage} lies on {len(slots)} pods; follow one of its ranks", param_hint="--follow"
        )
    concerns = of_rank(rank) if rank is not None else of_stage(stage or 0)
    options = {"follow": "true", "tailLines": "" if tail is None else str(tail)} if follow else {}
    pods = cluster.pods(name)
    for slot in slots:
        pod = holders.pod_of(pods, replica, slot)
        typer.echo(holders.caption(found, pod, slot, rank), err=True)
        said = filter(concerns, cluster.log(pod["metadata"]["name"], holders.speaking_container(pod), **options))
        for line in said if follow else deque(said, tail):
            typer.echo(line)


@app.command()
def top(
    name: Name,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=60, help="Time to measure for.")] = 2.0,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show requests, KV cache, speed and the busiest experts, as the frontends measure them."""
    from moe_operator.kubectl.load import load_lines  # noqa: PLC0415  # as above

    cluster = _cluster(kubeconfig, context, namespace)
    deployment = cluster.deployment(name)
    found = holders.plan_of(deployment, cluster.config_maps(name))
    _print(load_lines(found, list(_readings(cluster, deployment, found, seconds))))


@app.command()
def describe(name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Show the placement: slot, ranks, node and network domains, with the score and what lowers it."""
    from moe_operator.kubectl.cluster import ForbiddenError  # noqa: PLC0415  # as above
    from moe_operator.kubectl.placement import network_of, placement_lines  # noqa: PLC0415  # as above

    cluster = _cluster(kubeconfig, context, namespace)
    deployment = cluster.deployment(name)
    config_maps = cluster.config_maps(name)
    try:
        network = network_of(deployment, cluster.nodes())
    except ForbiddenError as error:
        typer.echo(f"without network domains: {error}", err=True)
        network = None
    for replica in holders.replica_statuses(deployment):
        found = holders.plan_of(deployment, config_maps, int(replica["index"]))
        _print(placement_lines(replica, found, network))


def main() -> NoReturn:
    """Entry point: exit 0 done, 1 the cluster or the deployment does not have it, 2 wrong use, 130 interrupted."""
    try:
        app(prog_name=PROGRAM)
    except PlanError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(0)


def _cluster(kubeconfig: str | None, context: str | None, namespace: str | None) -> "Cluster":
    try:
        from moe_operator.kubectl.cluster import Cluster  # noqa: PLC0415  # takes most of a second to import
    except ImportError as error:
        raise PlanError(f"{error.name} is not installed; pip install 'moe-operator[kubectl]'") from error
    return Cluster(kubeconfig, context, namespace)


def _print(lines: list[str]) -> None:
    typer.echo("\n".join(lines))


def _watch(read: Callable[[], list[str]]) -> NoReturn:
    """Show lines anew whenever they change: in place on a terminal, else one after another."""
    from rich.console import Console  # noqa: PLC0415  # as above

    console, shown = Console(highlight=False, markup=False), list[str]()
    while True:
        lines = read()
        if lines != shown:
            console.clear()
            _print(lines if console.is_terminal or not shown else ["", *lines])
        shown = lines
        time.sleep(WATCH_PACE_S)


def _last_line(cluster: "Cluster", pod: "Object", container: str) -> str:
    """The last line that a container said; empty where it has said nothing, or has not run."""
    try:
        lines = list(cluster.log(pod["metadata"]["name"], container, tailLines="1"))
    except PlanError:
        return ""
    return lines[-1].strip() if lines else ""


def _readings(cluster: "Cluster", deployment: "Object", plan: "Plan", seconds: float) -> "Iterator[Readings]":
    """Two readings of each replica's frontend, all the first ones before all the second."""
    from moe_operator.engines import engine  # noqa: PLC0415  # as above
    from moe_operator.kubectl.load import Readings  # noqa: PLC0415  # as above

    path = engine(plan.engine).metrics.path
    pods = cluster.pods(deployment["metadata"]["name"])

    def read(replica: int) -> tuple[str, str]:
        try:
            pod = holders.pod_of(pods, replica, 0)
            return cluster.through_proxy(pod["metadata"]["name"], plan.port, path), ""
        except PlanError as error:
            return "", str(error)

    replicas = [int(one["index"]) for one in holders.replica_statuses(deployment)]
    began, before = time.monotonic(), {replica: read(replica) for replica in replicas}
    if any(text for text, _ in before.values()):
        time.sleep(seconds)
    for replica in replicas:
        text, why_none = read(replica) if before[replica][0] else before[replica]
        yield Readings(replica, before[replica][0], text, time.monotonic() - began, why_none)
