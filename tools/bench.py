"""The figures of the README, measured here and now, each beside its target. Nothing is asserted: machines differ."""

import itertools
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from serving import MOE, ROOT, free_port, running, stream, wait_ready

from moe_plan.manifest import parse_deployment
from moe_plan.planner import make_plan

PLANNED = "examples/seed-s1.yaml"
"""A manifest of 128 ranks."""
SHARDS = 64
TOKENS = 24


def main() -> None:
    """Print the table."""
    rows = [*_plan_figures(), *_run_figures()]
    print(f"{'figure':<58}{'measured':>14}{'target':>14}")
    for name, measured, target in rows:
        print(f"{name:<58}{measured:>14}{target:>14}")


def _plan_figures() -> list[tuple[str, str, str]]:
    processes = [_elapsed_s([str(MOE), "plan", "-f", PLANNED, "-o", "json"]) for _ in range(9)]
    deployment = parse_deployment(yaml.safe_load((ROOT / PLANNED).read_text()))
    make_plan(deployment)
    calls = []
    for _ in range(50):
        started = time.perf_counter()
        make_plan(deployment)
        calls.append(time.perf_counter() - started)
    return [
        ("moe plan of 128 ranks, whole process, median of 9", f"{statistics.median(processes):.2f} s", "0.50 s"),
        ("make_plan of 128 ranks, a call, median of 50", f"{statistics.median(calls) * 1e3:.2f} ms", "10 ms"),
    ]


def _elapsed_s(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _run_figures() -> list[tuple[str, str, str]]:
    port = free_port()
    started = time.monotonic()
    with running(port, stderr=subprocess.DEVNULL) as server:
        wait_ready(server, port)
        next(stream(port, _request(1)))
        first_token_s = time.monotonic() - started
        alone_s = _seconds_a_token(port)
        with ThreadPoolExecutor(SHARDS) as clients:
            together_s = statistics.median(clients.map(_seconds_a_token, [port] * SHARDS))
        private, ranks = _private_bytes(server.pid)
    return [
        ("128 ranks, from moe run to the first token", f"{first_token_s:.1f} s", "30 s"),
        ("a decode step, 1 request (1 of 64 shards busy), median", f"{alone_s:.3f} s", "2 s (0.7 s)"),
        ("a decode step, 64 requests (every shard busy), median", f"{together_s:.3f} s", "2 s (0.7 s)"),
        (f"memory of a rank beyond shared pages, largest of {ranks}", f"{private / 1e6:.1f} MB", "40 MB"),
    ]


def _request(tokens: int) -> dict[str, object]:
    return {
        "model": "quickstart",
        "prompt": "It was",
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }


def _seconds_a_token(port: int) -> float:
    """Median time between two pieces of a stream."""
    times = [time.monotonic() for _ in stream(port, _request(TOKENS))]
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def _private_bytes(server: int) -> tuple[int, int]:
    """Largest private memory of the server's ranks (the processes below it that have no children), and their number."""
    ranks = [pid for pid in _descendants(server) if not _children(pid)]
    return max(_private(pid) for pid in ranks), len(ranks)


def _descendants(pid: int) -> list[int]:
    below = _children(pid)
    return below + [deeper for child in below for deeper in _descendants(child)]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _private(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    main()
