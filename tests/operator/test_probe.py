"""What the endpoints of replicas say: reached over real HTTP, measured between two samplings."""

import asyncio
import socket
from pathlib import Path

import pytest
from operated import Frontends

from moe_operator.engines import engine
from moe_operator.probe import HttpAsk, Prober, Target
from moe_operator.reconcile.model import Endpoint
from moe_operator.samples import measure, parse_samples, steady

GROUP = ("ns", "m")
OURS = engine("moe").metrics


def samples(requests: int, seconds_each: float) -> dict[tuple[str, str], float]:
    bounds = ("0.05", "0.1", "0.2", "+Inf")
    text = f"# HELP x\nmoe_generated_tokens_total {requests * 100}\n"
    for metric in ("moe_ttft_seconds", "moe_tpot_seconds"):
        for bound in bounds:
            count = requests if seconds_each <= float(bound) else 0
            text += f'{metric}_bucket{{le="{bound}"}} {count}\n'
    return parse_samples(text)


def test_figures_are_of_the_time_between_two_samplings() -> None:
    measured = measure(Endpoint(answered=True), samples(10, 0.08), samples(30, 0.08), 4.0, OURS)
    assert measured.tokens_per_second == 500.0
    assert measured.ttft == pytest.approx(0.075)
    assert measured.tpot == pytest.approx(0.075)


def test_an_idle_endpoint_keeps_its_figures_and_a_new_one_has_none() -> None:
    known = Endpoint(answered=True, ttft=0.2, tpot=0.02, tokens_per_second=900.0)
    assert measure(known, samples(10, 0.08), samples(10, 0.08), 10.0, OURS) == known
    assert measure(Endpoint(answered=True), {}, samples(10, 0.08), 10.0, OURS) == Endpoint(answered=True)


def test_a_small_move_is_not_told_and_a_large_one_is() -> None:
    known = Endpoint(answered=True, ttft=0.2, tpot=0.02, tokens_per_second=900.0)
    near = Endpoint(answered=True, ttft=0.21, tpot=0.0195, tokens_per_second=950.0)
    assert steady(known, near) == known
    assert steady(known, Endpoint(answered=True, ttft=0.3, tpot=0.02, tokens_per_second=900.0)).ttft == 0.3


def ask_once(target: Target) -> Endpoint:
    async def run() -> Endpoint:
        ask = HttpAsk()
        prober = Prober(ask, lambda _: None)
        try:
            return (await prober.endpoints(GROUP, {0: target}))[0]
        finally:
            prober.stop()
            await ask.close()

    return asyncio.run(run())


def test_an_endpoint_that_answers_serves_and_one_that_says_503_does_not() -> None:
    with Frontends().serving() as frontends:
        target = Target("uid", "127.0.0.1", frontends.port)
        assert ask_once(target) == Endpoint(answered=True)
        frontends.status = 503
        assert ask_once(target) == Endpoint(answered=False, said="HTTP 503: loading weights\n")


def test_where_nobody_listens_the_endpoint_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        said = ask_once(Target("uid", "127.0.0.1", taken.getsockname()[1]))
    assert not said.answered
    assert "127.0.0.1" in said.said


def test_the_runtime_names_its_metrics_as_they_are_read() -> None:
    source = (Path(__file__).parents[2] / "runtime/moe_runtime/frontend/metrics.py").read_text()
    for name in (OURS.ttft, OURS.tpot, f'"{OURS.tokens.removesuffix("_total")}"'):
        assert name in source
