"""What a replica of several pods costs on one machine: each pod a `serve` at a loopback address of its own.

    python -m moe_runtime.bench.pods --plan plan.json [--checkpoint DIR] [--tokens 8]     # a plan for CPU ranks

Start-up is that of all pods at once, each importing PyTorch; a decode step is timed with one request and with one on
each shard.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

from moe_plan.plan import Plan
from moe_runtime.frontend.plan_file import read_plan

START_S: Final = 900.0
STOP_S: Final = 40.0
REQUEST_S: Final = 600.0
PROMPT: Final = (1, 2, 3, 4, 5)


@contextmanager
def serving(plan: Plan, checkpoint: Path | None) -> Iterator[tuple[str, int]]:
    """All pods of a plan, ready; host and port of the frontend."""
    http_port, port = _free_port(), _free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(plan.model_dump_json())
        pods: list[subprocess.Popen[bytes]] = []
        try:
            pods += [_start(plan, path, checkpoint, slot, port, http_port) for slot in range(plan.slots)]
            _wait_ready(pods, http_port)
            yield _address(0), http_port
        finally:
            _stop(pods)


def first_token_and_steps(host: str, port: int, tokens: int) -> tuple[float, list[float]]:
    """Seconds to the first token of a stream, and between the tokens after it."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    connection = http.client.HTTPConnection(host, port, timeout=REQUEST_S)
    started = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    times = [time.perf_counter() for line in connection.getresponse() if line.startswith(b'data: {"id"')]
    connection.close()
    return times[0] - started, [after - before for before, after in pairwise(times)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Cost of a replica of several pods on this machine.")
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--tokens", type=int, default=8, metavar="N", help="of each answer (%(default)s)")
    options = parser.parse_args()
    plan = read_plan(options.plan)
    started = time.perf_counter()
    with serving(plan, options.checkpoint) as (host, port):
        _write(f"{plan.slots} pods of {plan.ranks_per_slot} ranks, ready after", time.perf_counter() - started)
        for busy in (1, plan.degrees.ep):
            first, step = _measure(host, port, options.tokens, busy)
            _write(f"first token, {busy} of {plan.degrees.ep} shards busy", first)
            _write("decode step", step)


def _measure(host: str, port: int, tokens: int, requests: int) -> tuple[float, float]:
    """Median seconds to the first token and of a step, of so many requests at once."""
    with ThreadPoolExecutor(requests) as pool:
        jobs = [pool.submit(first_token_and_steps, host, port, tokens) for _ in range(requests)]
        results = [job.result() for job in jobs]
    return statistics.median(first for first, _ in results), statistics.median(
        step for _, steps in results for step in steps
    )


def _start(
    plan: Plan, path: Path, checkpoint: Path | None, slot: int, port: int, http_port: int
) -> subprocess.Popen[bytes]:
    environment = {
        "LWS_GROUP_SIZE": str(plan.slots),
        "LWS_WORKER_INDEX": str(slot),
        "MASTER_ADDR": _address(0),
        "MASTER_PORT": str(port),
        "POD_IP": _address(slot),
    }
    given = ["--checkpoint", str(checkpoint)] if checkpoint else []
    command = [sys.executable, "-m", "moe_runtime", "serve", "--plan", str(path), "--host", _address(slot), *given]
    errors = None if slot == 0 else subprocess.DEVNULL
    return subprocess.Popen(  # noqa: S603  # the interpreter that runs this, and our own module
        [*command, "--port", str(http_port)], env={**os.environ, **environment}, stderr=errors
    )


def _wait_ready(pods: Sequence[subprocess.Popen[bytes]], port: int) -> None:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and all(pod.poll() is None for pod in pods):
        try:
            connection = http.client.HTTPConnection(_address(0), port, timeout=10)
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.1)
    sys.exit("the pods did not become ready; the frontend has said why")


def _stop(pods: Sequence[subprocess.Popen[bytes]]) -> None:
    for pod in pods:
        pod.send_signal(signal.SIGTERM)
    for pod in pods:
        try:
            pod.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pod.kill()
            pod.wait()


def _address(slot: int) -> str:
    return f"127.0.{slot // 200}.{2 + slot % 200}"


def _free_port() -> int:
    with socket.create_server((_address(0), 0)) as free:
        return int(free.getsockname()[1])


def _write(name: str, seconds: float) -> None:
    sys.stdout.write(f"{name:<48}{seconds:>10.3f} s\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
