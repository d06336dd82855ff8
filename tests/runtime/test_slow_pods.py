"""A pod whose processes get a quarter of their time holds the others up, and /health names its slot; no other pod is."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from endpoint import Command, Endpoint
from pods import in_slots, running
from tiny_plans import TINY_CONFIG, tiny_plan

SHARDS = 4
ALIKE_S = 15.0
NAMED_S = 90.0
STOPPED_S, RUNNING_S = 0.03, 0.01


@contextmanager
def slowed(pod: Command) -> Iterator[None]:
    """Stop all processes of a pod for three quarters of the time."""
    over, family = threading.Event(), pod.descendants()

    def tell(number: int) -> None:
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def alternate() -> None:
        while not over.is_set():
            tell(signal.SIGSTOP)
            over.wait(STOPPED_S)
            tell(signal.SIGCONT)
            over.wait(RUNNING_S)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def busy(endpoint: Endpoint) -> Iterator[None]:
    """Have every shard answer somebody all the time."""
    over = threading.Event()

    def ask() -> None:
        body = {"prompt": [1, 2, 3], "max_tokens": 40, "temperature": 0}
        with endpoint.client() as client:
            while not over.is_set():
                assert client.post("/v1/completions", json=body).status_code == 200

    with ThreadPoolExecutor(SHARDS) as pool:
        asking = [pool.submit(ask) for _ in range(SHARDS)]
        try:
            yield
        finally:
            over.set()
        for one in asking:
            one.result()


def slow_slots(client: httpx.Client) -> list[dict[str, float]]:
    answer = client.get("/health")
    assert answer.status_code == 200
    found: list[dict[str, float]] = answer.json().get("slow_slots", [])
    return found


def paces(client: httpx.Client) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("moe_slot_pace{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def watch(client: httpx.Client, seconds: float) -> Iterator[list[dict[str, float]]]:
    """The slow slots, every second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        threading.Event().wait(1)
        yield slow_slots(client)


@pytest.mark.slow
def test_a_pod_that_gets_a_quarter_of_its_time_is_named_and_none_before(tmp_path: Path) -> None:
    plan = in_slots(tiny_plan({**TINY_CONFIG, "num_hidden_layers": 4}, ep=SHARDS, tp=1), 2)
    with running(tmp_path, plan) as (pods, endpoint), endpoint.client() as client, busy(endpoint):
        assert [found for found in watch(client, ALIKE_S) if found] == []
        assert sorted(paces(client)) == ["0", "1"]
        with slowed(pods.workers[1]):
            named = next(found for found in watch(client, NAMED_S) if found)
        assert [one["slot"] for one in named] == [1]
        assert named[0]["factor"] >= 1.6
