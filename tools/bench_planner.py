"""How long estimates and searches take, beside NVIDIA's AIConfigurator where it is installed. Nothing is asserted: machines differ.

Run it with `python tools/bench_planner.py [--peer PYTHON]`; PYTHON is the interpreter of an environment that has
aiconfigurator, also read from the environment variable AICONFIGURATOR_PYTHON.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
RUNS = 5
PEER_DEADLINE_S = 300

MANIFEST = """
apiVersion: moe-operator.dev/v1alpha1
kind: MoEDeployment
metadata: {name: qwen3-235b}
spec:
  model: {architecture: qwen3-235b-a22b}
  hardware: {accelerator: h200-sxm}
  parallelism: {ep: 64, tp: 2}
  workload: {inputTokens: 1024, outputTokens: 1024, concurrency: 512}
"""

# Run in a process of their own, so that nothing is warm: imports and the manifest are read first, then the clock runs.
ESTIMATE = """
import sys, time, yaml
from moe_plan.layout import Layout
from moe_plan.manifest import parse_deployment
from moe_plan.search.choice import Choice, forecast, work_out
from moe_plan.subject import resolve
subject = resolve(parse_deployment(yaml.safe_load(sys.argv[1])), None)
for _ in range(2):
    started = time.perf_counter()
    forecast(subject, work_out(subject, Choice(Layout(64, 2, 1), 0)))
    print(time.perf_counter() - started)
"""
SEARCH = """
import sys, time, yaml
from moe_plan.manifest import parse_deployment
from moe_plan.search.compare import compare
deployment = parse_deployment(yaml.safe_load(sys.argv[1]))
for _ in range(2):
    started = time.perf_counter()
    compare(deployment, gpus=int(sys.argv[2]))
    print(time.perf_counter() - started)
"""
PEER_ESTIMATE = [
    *("estimate", "--tp-size", "2", "--attention-dp-size", "64", "--moe-tp-size", "2", "--moe-ep-size", "64"),
    *("--batch-size", "8"),
]
PEER_SEARCH = ["default", "--total-gpus", "128", "--ttft", "100000", "--tpot", "1000"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", default=os.environ.get("AICONFIGURATOR_PYTHON"), metavar="PYTHON")
    told, plan_peer, search_peer = _peer(parser.parse_args().peer)
    target, published = FIGURES["target"], FIGURES["published"]
    heading = f"Qwen3-235B-A22B on H200, median of {RUNS}"
    print(f"{heading:<46}{'first':>10}{'again':>10}{'target':>10}{'peer':>12}{'ratio':>9}")
    _row("one estimate, in a fresh process", _fresh(ESTIMATE), target["estimate_s"], published["estimate_s"])
    _row("search, 128 GPUs, in a fresh process", _fresh(SEARCH, "128"), target["search_128_s"], published["search_s"])
    _row("search, 1,024 GPUs, in a fresh process", _fresh(SEARCH, "1024"), target["search_1024_s"])
    _row("moe plan, whole command", _command("plan"), target["plan_command_s"], plan_peer)
    search = _command("search", "--gpus", "128")
    _row("moe search, 128 GPUs, whole command", search, target["search_128_command_s"], search_peer)
    print(told)
    print(_bytecode())


def _bytecode() -> str:
    """Whether the commands find their imports compiled, half of their time where they do not."""
    numpy = importlib.util.find_spec("numpy")
    assert numpy is not None
    assert numpy.origin is not None
    there = Path(importlib.util.cache_from_source(numpy.origin)).exists()
    return f"bytecode of what is imported: {'there' if there else 'none, so each process compiles all; make setup leaves it'}"


def _row(name: str, seconds: Sequence[float], target_s: float, peer_s: float | None = None) -> None:
    first = seconds[0]
    again = _time(seconds[1]) if len(seconds) > 1 else ""
    beside = f"{_time(peer_s):>12}{peer_s / first:>8.0f}×" if peer_s else ""
    print(f"{name:<46}{_time(first):>10}{again:>10}{_time(target_s):>10}{beside}")


def _time(seconds: float) -> str:
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1e3:.2f} ms"
        if seconds < 0.01
        else f"{seconds * 1e3:.0f} ms"
    )


def _fresh(program: str, *arguments: str) -> tuple[float, float]:
    """Seconds of the first call in a process and of the second, medians over processes."""
    runs = []
    for _ in range(RUNS):
        done = _run([sys.executable, "-c", program, MANIFEST, *arguments])
        runs.append([float(line) for line in done.stdout.split()])
    first, second = (statistics.median(column) for column in zip(*runs, strict=True))
    return first, second


def _command(*arguments: str) -> tuple[float]:
    """Seconds of a whole command, from its start to its end, median."""
    command = [str(Path(sys.executable).with_name("moe")), arguments[0], "-f", "-", *arguments[1:]]
    return (statistics.median(_elapsed(command, MANIFEST) for _ in range(RUNS)),)


def _peer(python: str | None) -> tuple[str, float | None, float | None]:
    """Where the peer's figures are from, and the seconds of its commands for an estimate and a search if it is there."""
    published = "peer within a process: AIConfigurator's published figures, not measured in this run"
    if python is None:
        return f"{published}; its commands: not measured, give --peer", None, None
    of = FIGURES["peer"]
    about = ["--model-path", of["model"], "--system", of["system"], "--backend", of["backend"]]
    command = [str(Path(python).with_name("aiconfigurator")), "cli"]
    lengths = ["--isl", "1024", "--osl", "1024"]
    estimate, search = (_elapsed([*command, *asked, *about, *lengths]) for asked in (PEER_ESTIMATE, PEER_SEARCH))
    return f"{published}; its commands: measured in this run with {python}", estimate, search


def _elapsed(command: Sequence[str], text: str = "") -> float:
    started = time.perf_counter()
    _run(command, text)
    return time.perf_counter() - started


def _run(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """A command's outcome. Ends this program with the command's words if it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # the peer reads the model's config from its own package
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=PEER_DEADLINE_S,
        cwd=ROOT,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed:\n{done.stderr[-2000:]}")
    return done


if __name__ == "__main__":
    main()
