"""Networks and API servers at their worst: the operator ends where it would have ended, without storms."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from operated import Frontends, Ground
from operator_process import Operator, eventually, install, running, token
from proxy import Answer, CloseConnection, EndAfter, FallSilent, Fault, LoseReply, Proxy, Request, proxy, refusal

pytestmark = pytest.mark.soak

MOST_WRITES = 200
"""A quiet run of the same takes about 40."""
MOST_REQUESTS = 1500
CONVERGES_S = 60.0


@pytest.fixture
def ground(plane: ControlPlane, frontends: Frontends) -> Iterator[Ground]:
    install(plane)
    ground = Ground(plane, frontends.port, nodes=6)
    yield ground
    plane.kubectl("delete", "moed", "--all", f"--namespace={ground.namespace}", "--wait=false")


@pytest.fixture
def between(plane: ControlPlane) -> Iterator[Proxy]:
    with proxy(plane) as running_proxy:
        yield running_proxy


def first_of_each(fault: Fault, concerns: Callable[[Request], bool]) -> Callable[[Request], Fault]:
    """The fault for the first request of each method and path that it concerns."""
    seen = set()

    def decide(request: Request) -> Fault:
        if not concerns(request) or (request.method, request.path) in seen:
            return None
        seen.add((request.method, request.path))
        return fault

    return decide


def share(part: float, faults: list[Fault]) -> Callable[[Request], Fault]:
    """One of the faults for a part of all requests."""
    dice = random.Random(7)
    return lambda _: dice.choice(faults) if dice.random() < part else None


def gone(times: int) -> Callable[[Request], Fault]:
    """The first watches of each resource begin too late."""
    event = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
    told: dict[str, int] = {}

    def decide(request: Request) -> Fault:
        if not request.is_watch or told.get(request.path, 0) >= times:
            return None
        told[request.path] = told.get(request.path, 0) + 1
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(event).encode() + b"\n")

    return decide


FAULTS: dict[str, Callable[[], Callable[[Request], Fault]]] = {
    "each write conflicts once": lambda: first_of_each(refusal(409, "Conflict"), lambda r: r.is_write),
    "each request is one too many once": lambda: first_of_each(
        refusal(429, "TooManyRequests", **{"Retry-After": "1"}), lambda _: True
    ),
    "half of all requests fail": lambda: share(
        0.5, [refusal(500, "InternalError"), refusal(503, "ServiceUnavailable")]
    ),
    "a third of all requests are too many": lambda: share(
        1 / 3, [refusal(429, "TooManyRequests", **{"Retry-After": "1"})]
    ),
    "each write is done and its reply lost once": lambda: first_of_each(LoseReply(), lambda r: r.is_write),
    "a quarter of all connections break": lambda: share(0.25, [CloseConnection()]),
    "watches break after a few events": lambda: lambda r: EndAfter(20_000) if r.is_watch else None,
    "watches fall silent": lambda: first_of_each(FallSilent(), lambda r: r.is_watch),
    "watches begin too late": lambda: gone(3),
    "credentials are refused once": lambda: first_of_each(refusal(401, "Unauthorized"), lambda _: True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_converges_without_a_storm_when(name: str, between: Proxy, ground: Ground, tmp_path: Path) -> None:
    between.fault = FAULTS[name]()
    silence = 3 if "silent" in name else 70
    with running(ground.plane, tmp_path, f"--watch-silence={silence}", url=between.url) as operator:
        live(ground, operator)
        assert len(between.writes()) < MOST_WRITES, operator.log
        assert len(between.requests) < MOST_REQUESTS, operator.log
        between.fault = lambda _: None
        assert_quiet(between, ground, operator)


def live(ground: Ground, operator: Operator) -> None:
    """Create, scale up and down: with any fault it ends as without."""
    ground.apply(ground.deployment(replicas=1))
    wait(lambda: ground.wait_ready(1, deadline_s=CONVERGES_S), operator)
    first = {name: pod["metadata"]["uid"] for name, pod in ground.pods().items()}
    ground.plane.kubectl("scale", "moed/m", f"-n={ground.namespace}", "--replicas=2")
    wait(lambda: ground.wait_ready(2, deadline_s=CONVERGES_S), operator)
    assert sorted(ground.pods()) == ["m-0-0", "m-0-1", "m-1-0", "m-1-1"]
    ground.plane.kubectl("scale", "moed/m", f"-n={ground.namespace}", "--replicas=1")
    wait(lambda: ground.wait_ready(1, deadline_s=CONVERGES_S), operator)
    eventually(lambda: sorted(ground.pods()) == ["m-0-0", "m-0-1"], lambda: operator.log)
    assert {name: pod["metadata"]["uid"] for name, pod in ground.pods().items()} == first, "replica 0 was left alone"
    assert not [child for child in ground.children() if child["metadata"]["name"].startswith("m-1")]
    assert {pod["metadata"]["labels"]["moe-operator.dev/attempt"] for pod in ground.pods().values()} == {"1"}


def wait(waiting: Callable[[], None], operator: Operator) -> None:
    try:
        waiting()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{operator.log[-4000:]}") from error


def assert_quiet(between: Proxy, ground: Ground, operator: Operator) -> None:
    """Nothing is written while nothing is to do: not for one deployment while another lives."""
    assert operator.process.poll() is None, operator.log
    assert "Traceback" not in operator.log, operator.log
    before = len(between.requests)
    ground.apply(ground.deployment("other"))
    ground.wait_ready(1, "other")
    paths = [request.path for request in between.requests[before:] if request.is_write]
    assert not [path for path in paths if path.rpartition("/")[2].startswith("m-") or path.endswith("/m/status")]


def test_a_write_that_fails_for_long_is_told_and_made_once_it_can_be(
    between: Proxy, ground: Ground, tmp_path: Path
) -> None:
    broken = refusal(500, "InternalError")
    between.fault = lambda r: broken if r.is_write and "/services/" in r.path else None
    with running(ground.plane, tmp_path, url=between.url) as operator:
        ground.apply(ground.deployment())
        eventually(lambda: ground.condition("Reconciling")[1] == "WriteFailing", lambda: operator.log)
        assert "/services/m" in ground.condition("Ready")[2]
        assert "HTTP 500: InternalError of the test" in ground.condition("Ready")[2]
        assert not ground.pods()
        between.fault = lambda _: None
        wait(lambda: ground.wait_ready(1), operator)


def test_a_rotated_token_is_read_anew(between: Proxy, ground: Ground, tmp_path: Path) -> None:
    with running(ground.plane, tmp_path, url=between.url) as operator:
        ground.apply(ground.deployment())
        ground.wait_ready(1)
        fresh = token(ground.plane, "2h")
        between.fault = lambda r: None if r.authorization == f"Bearer {fresh}" else refusal(401, "Unauthorized")
        (tmp_path / "token").write_text(fresh)
        ground.apply(ground.deployment("other"))
        wait(lambda: ground.wait_ready(1, "other"), operator)
        assert operator.process.poll() is None, operator.log


def test_credentials_that_are_refused_for_a_while_end_nothing(between: Proxy, ground: Ground, tmp_path: Path) -> None:
    with running(ground.plane, tmp_path, url=between.url) as operator:
        ground.apply(ground.deployment())
        ground.wait_ready(1)
        until = time.monotonic() + 6
        between.fault = lambda r: (
            None if time.monotonic() > until else (EndAfter(0) if r.is_watch else refusal(401, "Unauthorized"))
        )
        ground.apply(ground.deployment("other"))
        wait(lambda: ground.wait_ready(1, "other"), operator)
        assert operator.process.poll() is None, operator.log


def test_an_old_list_takes_nothing_away_and_brings_nothing_back(between: Proxy, ground: Ground, tmp_path: Path) -> None:
    """Watches end and the lists that follow are of an hour ago, as from an API server that lags behind."""
    old: dict[str, bytes] = {}
    with running(ground.plane, tmp_path, url=between.url) as operator:
        for path in ("/api/v1/pods", "/api/v1/configmaps", "/api/v1/services"):
            old[path] = ground.plane.kubectl("get", "--raw", f"{path}?limit=500").stdout.encode()
        ground.apply(ground.deployment())
        ground.wait_ready(1)
        uids = {name: pod["metadata"]["uid"] for name, pod in ground.pods().items()}
        stale = first_of_each(Answer(0), lambda r: r.path in old and "limit" in r.query)
        late = gone(1)

        def fault(request: Request) -> Fault:
            if stale(request) is not None:
                return Answer(200, {"Content-Type": "application/json"}, old[request.path])
            return late(request)

        between.fault = fault
        operator.process.send_signal(0)
        ground.apply(ground.deployment("other"))
        wait(lambda: ground.wait_ready(1, "other"), operator)
        assert {n: p["metadata"]["uid"] for n, p in ground.pods().items() if n.startswith("m-")} == uids, operator.log
