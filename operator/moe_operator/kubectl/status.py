"""A deployment at a glance: its conditions, predicted beside measured, and each replica. Pure."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from moe_operator.cli.tables import WIDTH, table
from moe_operator.reconcile.model import Object
from moe_operator.reconcile.objects import condition, name

_SHOWN = ("Ready", "Stalled", "Reconciling")
_LONGEST_MESSAGE = 5
"""Lines of a condition's message; `kubectl moe why` has all of it."""


def status_lines(deployment: Object) -> list[str]:
    """All of it, in lines of at most 100 characters."""
    status = deployment.get("status")
    if not status:
        return [f"{name(deployment)}: no status yet; is the operator running?"]
    lines = [*_head(deployment, status), *_figures(status)]
    replicas = status.get("replicaStatuses") or []
    if replicas:
        lines += ["", *_replicas(replicas)]
    return [fitted(line) for line in (*lines, *_failures(replicas))]


def fitted(line: str) -> str:
    """A line, cut where it is longer than a terminal is wide."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def wrapped(text: str, indent: str) -> list[str]:
    """A message of several lines within a terminal's width."""
    return [
        piece
        for line in text.splitlines()
        for piece in textwrap.wrap(line, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ") or [indent]
    ]


def _head(deployment: Object, status: Mapping[str, Any]) -> Iterator[str]:
    plan = status.get("plan")
    what = f": {plan['model']}, {plan['degrees']}, {plan['gpus']} GPUs a replica" if plan else ": no plan"
    yield f"{name(deployment)}{what}, {status.get('ready', '0/0')} ready"
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        yield "the operator has not looked at the latest spec yet"
    told: set[str] = set()
    for kind in _SHOWN:
        found = condition(deployment, kind)
        if found is None or (found["status"] == "False" and kind != "Ready"):
            continue
        message = found["message"] if found["message"] not in told else "as above"
        told.add(found["message"])
        text = wrapped(f"{kind} {found['status']}, {found['reason']}: {message}", "  ")
        yield from text[:_LONGEST_MESSAGE]
        if len(text) > _LONGEST_MESSAGE:
            yield f"    … all of it: kubectl moe why {name(deployment)}"


def _figures(status: Mapping[str, Any]) -> list[str]:
    plan, measured = status.get("plan") or {}, status.get("measured") or {}
    if not plan:
        return []
    rows = [
        (label, _figure(plan.get(key)), _figure(measured.get(key)))
        for label, key in (("TTFT", "ttft"), ("TPOT", "tpot"), ("tokens/s", "tokensPerSecond"))
    ]
    return ["", *table(rows, header=("", "predicted", "measured"))]


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _replicas(replicas: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            str(one["index"]),
            one["phase"],
            f"{one['readySlots']}/{one['slots']}",
            one["placementScore"] or "–",
            str(one.get("restarts", 0)),
            _nodes(one["nodes"]),
        )
        for one in replicas
    ]
    return table(rows, header=("replica", "phase", "slots ready", "score", "restarts", "nodes"))


def _nodes(nodes: Sequence[str]) -> str:
    if len(nodes) < 3:
        return ", ".join(nodes) or "–"
    return f"{nodes[0]} … {nodes[-1]} ({len(nodes)})"


def _failures(replicas: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    failed = [one for one in replicas if one.get("lastFailure")]
    if failed:
        yield ""
        yield "last failures"
    for one in failed:
        yield from wrapped(f"replica {one['index']}: {one['lastFailure']}", "  ")
