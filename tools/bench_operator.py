"""Measures the operator on a real control plane with fake nodes: time to bound pods, memory, and what it costs idle.

`make bench-operator` runs all; figures of a busy machine are of no use, so the load is printed too.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("cluster", "support")]

from control_plane import ControlPlane, control_plane  # noqa: E402  # a test tool, found by the line above
from operated import Frontends, Ground  # noqa: E402
from operator_process import Operator, cpu_s, eventually, install, resident_mb, running  # noqa: E402

FIGURES = tomllib.loads((ROOT / "tools" / "bench_operator.toml").read_text(encoding="utf-8"))
DEADLINE_S = 300.0
Row = tuple[str, str, str, str, str]
"""What is measured, this operator's figure, the target, LeaderWorkerSet's, and that of bare writes."""
SELDOM_S = 2.0
"""Between looks that cost the API server something."""
EP_OF_16_PODS = 64
EP_OF_1_POD = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, action="append", help="only the figures of so many pods; may be repeated")
    parser.add_argument("--times", type=int, default=3, help="runs of each figure below 500 pods")
    chosen = parser.parse_args()
    with control_plane() as plane, Frontends().serving() as frontends, tempfile.TemporaryDirectory() as folder:
        plane.install_crd()
        install(plane)
        with running(plane, Path(folder)) as operator:
            eventually(lambda: "leading" in operator.log, "the operator leads")
            _print(list(_told(_measure(plane, frontends, operator, chosen))))


def _told(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows; each is told when it is measured, since all take ten minutes."""
    for row in rows:
        print(f"{row[0]}: {row[1]}", file=sys.stderr, flush=True)
        yield row


def _measure(
    plane: ControlPlane, frontends: Frontends, operator: Operator, chosen: argparse.Namespace
) -> Iterator[Row]:
    for figure in FIGURES["figure"]:
        if chosen.pods and figure["pods"] not in chosen.pods:
            continue
        ground = Ground(plane, frontends.port, figure["nodes"])
        eventually(lambda ground=ground: ground.ready_nodes() == ground.nodes, "nodes are ready", DEADLINE_S, SELDOM_S)
        times = []
        for _ in range(1 if figure["pods"] > 500 else chosen.times):
            times.append(_bound_s(ground, figure["replicas"]))
            if figure["pods"] == max(row["pods"] for row in FIGURES["figure"]):
                yield _memory(operator, figure["pods"])
                yield _idle(operator, ground, figure["replicas"])
            ground.delete()
            ground.wait_gone(DEADLINE_S)
        what = f"{figure['pods']} pods in {figure['replicas']} replicas bound, s"
        ours = f"{min(times):.2f}–{max(times):.2f}" if len(times) > 1 else f"{times[0]:.1f}"
        yield what, ours, f"{figure['target_s']:g}", figure["leaderworkerset"], figure["bare"]
        if figure["nodes"] >= FIGURES["many"]["deployments"]:
            yield from _many(ground, operator)


def _many(ground: Ground, operator: Operator) -> Iterator[Row]:
    """Many deployments of one pod each, a node for each."""
    count = FIGURES["many"]["deployments"]
    watch = _Watch(ground.plane, ground.namespace, count)
    began = time.monotonic()
    for number in range(count):
        _post(ground, ground.deployment(f"m{number}", ep=EP_OF_1_POD))
    posted = time.monotonic() - began
    bound = watch.ended() - began
    yield f"{count} deployments of a pod bound, s (posted in {posted:.0f})", f"{bound:.0f}", "", "", ""
    eventually(lambda: _ready_deployments(ground) == count, "all are ready", DEADLINE_S, SELDOM_S)
    yield "until each is Ready, s", f"{time.monotonic() - began:.0f}", "", "", ""
    yield f"resident with {count} deployments, MB", f"{resident_mb(operator.process):.0f}", "", "", ""
    yield f"idle CPU with {count} deployments, %", f"{_idle_percent(operator):.2f}", "", "", ""


def _ready_deployments(ground: Ground) -> int:
    return sum(deployment.get("status", {}).get("ready") == "1/1" for deployment in ground.get("moed"))


def _bound_s(ground: Ground, replicas: int) -> float:
    """Seconds from the apply until the last pod is bound, as a watch sees it."""
    watch = _Watch(ground.plane, ground.namespace, replicas * 16)
    began = time.monotonic()
    _post(ground, ground.deployment(ep=EP_OF_16_PODS, replicas=replicas))
    return watch.ended() - began


def _post(ground: Ground, deployment: dict[str, Any]) -> None:
    path = f"/apis/moe-operator.dev/v1alpha1/namespaces/{ground.namespace}/moedeployments"
    body = json.dumps(deployment).encode()
    request = urllib.request.Request(ground.plane.url + path, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10, context=ground.plane.context()).close()


class _Watch:
    """Counts pods of a namespace as they are bound."""

    def __init__(self, plane: ControlPlane, namespace: str, wanted: int) -> None:
        self._plane = plane
        self._url = f"{plane.url}/api/v1/namespaces/{namespace}/pods?watch=true"
        self._wanted = wanted
        self._ended: float | None = None
        self._answer = self._open()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def ended(self) -> float:
        self._thread.join(DEADLINE_S)
        if self._ended is None:
            raise TimeoutError(f"not {self._wanted} pods were bound within {DEADLINE_S:g} s")
        return self._ended

    def _open(self) -> Any:
        return urllib.request.urlopen(self._url, timeout=DEADLINE_S, context=self._plane.context())

    def _count(self) -> None:
        bound: set[str] = set()
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and len(bound) < self._wanted:
            with suppress(OSError), self._answer as lines:
                for line in lines:
                    pod = json.loads(line)["object"]
                    if (pod.get("spec") or {}).get("nodeName"):
                        bound.add(pod["metadata"]["name"])
                    if len(bound) >= self._wanted:
                        self._ended = time.monotonic()
                        return
            with suppress(OSError):  # a busy API server ends watches; a new one begins with all there is
                self._answer = self._open()


def _memory(operator: Operator, pods: int) -> Row:
    figure = FIGURES["memory"]
    used = f"{resident_mb(operator.process):.0f}"
    return f"resident with {pods} pods, MB", used, f"{figure['target_mb']}", figure["leaderworkerset"], ""


def _idle(operator: Operator, ground: Ground, replicas: int) -> Row:
    """CPU of the operator once nothing happens any more."""
    figure = FIGURES["idle"]
    ground.wait_ready(replicas, deadline_s=DEADLINE_S)
    share = f"{_idle_percent(operator):.2f}"
    return f"idle CPU with {replicas} replicas, %", share, f"{figure['target_percent']:g}", "", ""


def _idle_percent(operator: Operator) -> float:
    seconds = FIGURES["idle"]["seconds"]
    used = cpu_s(operator.process)
    time.sleep(seconds)
    return (cpu_s(operator.process) - used) / seconds * 100


def _print(rows: list[Row]) -> None:
    table = Table("", "this operator", "target", "LeaderWorkerSet", "bare writes")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
