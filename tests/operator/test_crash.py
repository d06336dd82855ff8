"""The operator dies after any of its writes, once or again and again: its successors end where it would have ended."""

import itertools
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import Operator, eventually, install, running, start
from proxy import CloseConnection, Fault, LoseReply, Proxy, Request, proxy

pytestmark = pytest.mark.soak

SETTLES_S = 240.0


@pytest.fixture
def between(plane: ControlPlane) -> Iterator[Proxy]:
    install(plane)
    with proxy(plane) as running_proxy:
        yield running_proxy


class Mortal:
    """An operator that is killed when the API server has done its k-th write since it or a step began.

    At most `deaths_a_step` times in each step; its last successor lives on.
    """

    def __init__(self, between: Proxy, folder: Path, k: int, deaths_a_step: float = math.inf) -> None:
        self._between, self._folder, self._k, self._most = between, folder, k, deaths_a_step
        self.deaths = 0
        self._in_step = 0
        self._left = k
        self._dead = False
        between.fault = self._fault
        self.operator = self._start()

    def _start(self) -> Operator:
        return start(self._between.plane, self._folder, url=self._between.url)

    def _fault(self, request: Request) -> Fault:
        """The k-th write is done, but nobody hears of it; what comes after it does not arrive."""
        if not request.is_write:
            return None
        if self._dead:
            return CloseConnection()
        if self._in_step >= self._most:
            return None
        self._left -= 1
        if self._left > 0:
            return None
        self._dead = True
        return LoseReply()

    def _succeed(self) -> None:
        """Kill it, and start the next."""
        self.operator.kill()
        self.deaths += 1
        self._left, self._dead = self._k, False
        self.operator = self._start()

    def live_until(self, question: Callable[[], bool]) -> None:
        """One step: kill and start again until the answer is yes."""
        self._left, self._in_step = self._k, 0
        if self._dead:  # by the last write of the step before
            self._succeed()
        eventually(
            lambda: question() or self._succeed_if_dead(),
            lambda: f"{self.deaths} deaths; {self.operator.log[-3000:]}",
            SETTLES_S,
        )

    def _succeed_if_dead(self) -> None:
        if self._dead:
            self._in_step += 1
            self._succeed()
        assert self.operator.process.poll() is None, self.operator.log


def shape(ground: Ground) -> list[tuple[Any, ...]]:
    """What there is, but for what is new each time: versions, addresses, times."""
    found = []
    for child in ground.children():
        owners = [owner["uid"] for owner in child["metadata"].get("ownerReferences", ())]
        labels = tuple(sorted(child["metadata"]["labels"].items()))
        node = (child.get("spec") or {}).get("nodeName", "")
        found.append((child["kind"], child["metadata"]["name"], labels, node, len(owners)))
    return sorted(found)


def settled(ground: Ground, replicas: int, generation: int) -> Callable[[], bool]:
    def question() -> bool:
        status = ground.status()
        done = {c["type"]: (c["status"], c["observedGeneration"]) for c in status.get("conditions") or ()}
        ready = status.get("ready") == f"{replicas}/{replicas}" and done["Ready"] == ("True", generation)
        return ready and done["Reconciling"][0] == "False"

    return question


STEPS: list[tuple[dict[str, Any], int]] = [
    ({"replicas": 1}, 1),
    ({"replicas": 1, "serving": {"maxBatchTokens": 4096}}, 1),
    ({"replicas": 2, "serving": {"maxBatchTokens": 4096}}, 2),
    ({"replicas": 1, "serving": {"maxBatchTokens": 4096}}, 1),
]
"""Create, change what decides pods, scale up, scale down: spec and replicas that serve at the end."""


def story(ground: Ground, live_until: Callable[[Callable[[], bool]], None]) -> list[list[tuple[Any, ...]]]:
    """The shape after each step, and after deletion."""
    eventually(lambda: ground.ready_nodes() == ground.nodes, "nodes are ready")
    shapes = []
    for generation, (spec, replicas) in enumerate(STEPS, start=1):
        serving = {**spec.get("serving", {}), "port": ground.port}
        ground.apply(ground.deployment(**{**spec, "serving": serving}))
        live_until(settled(ground, replicas, generation))
        shapes.append(shape(ground))
    ground.delete()
    live_until(lambda: not ground.children())
    return shapes


def undisturbed(between: Proxy, ground: Ground, folder: Path) -> list[list[tuple[Any, ...]]]:
    """The shapes of the story of an operator that nobody kills."""
    with running(between.plane, folder, url=between.url) as operator:
        return story(ground, lambda question: eventually(question, lambda: operator.log, SETTLES_S))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_killed_after_each_kth_write_it_ends_as_if_nothing_had_happened(
    k: int, between: Proxy, frontends: Frontends, tmp_path: Path
) -> None:
    ground = Ground(between.plane, frontends.port, nodes=4)
    expected = undisturbed(between, ground, tmp_path / "undisturbed")
    mortal = Mortal(between, tmp_path / "mortal", k)
    try:
        found = story(ground, mortal.live_until)
    finally:
        mortal.operator.kill()
    assert found == expected
    assert mortal.deaths >= 20 // k


def test_killed_once_in_each_step_after_its_kth_write_for_every_k_it_ends_likewise(
    between: Proxy, frontends: Frontends, tmp_path: Path
) -> None:
    ground = Ground(between.plane, frontends.port, nodes=4)
    expected = undisturbed(between, ground, tmp_path / "undisturbed")
    for k in itertools.count(1):
        mortal = Mortal(between, tmp_path / f"mortal-{k}", k, deaths_a_step=1)
        try:
            found = story(ground, mortal.live_until)
        finally:
            mortal.operator.kill()
        assert found == expected, f"killed after write {k} of each step"
        if mortal.deaths == 0:
            break
    assert k > 10, "a step has more writes than ten"


def test_an_operator_that_was_frozen_for_longer_than_its_lease_leaves_all_to_the_one_that_leads_now(
    plane: ControlPlane, frontends: Frontends, tmp_path: Path
) -> None:
    install(plane)
    ground = Ground(plane, frontends.port, nodes=4)
    with running(plane, tmp_path) as first, running(plane, tmp_path, identity="operator-b") as second:
        ground.apply(ground.deployment())
        ground.wait_ready(1)
        frozen, other = (first, second) if "leading as" in first.log else (second, first)
        frozen.process.send_signal(signal.SIGSTOP)
        eventually(lambda: "leading as" in other.log, "the other leads")
        ground.plane.kubectl("scale", "moed/m", f"-n={ground.namespace}", "--replicas=2")
        ground.wait_ready(2)
        before = shape(ground)
        frozen.process.send_signal(signal.SIGCONT)
        eventually(lambda: "the lease is lost" in frozen.log, lambda: frozen.log)
        ground.plane.kubectl("scale", "moed/m", f"-n={ground.namespace}", "--replicas=1")
        ground.wait_ready(1)
        assert set(shape(ground)) < set(before)
        assert first.process.poll() is None
        assert second.process.poll() is None
        assert frozen.log.count("leading as") == 1
    ground.delete()
    ground.wait_gone()
