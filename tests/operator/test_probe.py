"""What the endpoints of replicas say: reached over real HTTP, measured between two samplings."""

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from operated import Frontends

from moe_operator.engines import engine
from moe_operator.health import missing_slots, slow_slots
from moe_operator.probe import HttpAsk, Prober, Target
from moe_operator.reconcile.model import Absent, Endpoint, Slow
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
        assert ask_once(target) == Endpoint(answered=False, said="HTTP 503: loading weights")


def said(frontend: str, status: int = 503, **agents: str) -> Endpoint:
    """What is known after one round in which the frontend and the agents answer so; agents by host."""

    async def ask(target: Target, path: str) -> tuple[int, str]:
        if path == "/agent/ready":
            assert target.port == 29600
            if target.host not in agents:
                raise ConnectionRefusedError
            return 503, agents[target.host]
        return (status, frontend) if path == "/health" else (200, "")

    async def run() -> Endpoint:
        prober = Prober(ask, lambda _: None)
        try:
            others = {1: "one", 2: "two", 3: "three"}
            return (await prober.endpoints(GROUP, {0: Target("uid", "zero", 8000, others=others)}))[0]
        finally:
            prober.stop()

    return asyncio.run(run())


def test_slots_that_a_frontend_misses_are_asked_why() -> None:
    health = {"status": "starting", "detail": "slots 2, 3 did not come", "missing_slots": [2, 3]}
    found = said(json.dumps(health), two="the name m-0-0 is not known\n")
    assert found.said == "HTTP 503: slots 2, 3 did not come"
    assert found.absent == (Absent(2, "the name m-0-0 is not known"), Absent(3, ""))


def test_slow_slots_are_read_by_slot_and_a_small_change_is_not_told() -> None:
    health = {"status": "ready", "slow_slots": [{"slot": 3, "factor": 2.44}, {"slot": 1, "factor": 4}]}
    found = said(json.dumps(health), 200)
    assert found.slow == (Slow(1, 4.0), Slow(3, 2.4))
    assert steady(found, replace(found, slow=(Slow(1, 4.5), Slow(3, 2.2)))) == found
    assert steady(found, replace(found, slow=(Slow(1, 6.0), Slow(3, 2.4)))).slow[0].factor == 6.0
    assert steady(found, Endpoint(answered=True)).slow == ()


@pytest.mark.parametrize(
    "text",
    ["", "ok", "[]", '{"missing_slots": 3, "slow_slots": "x"}', '{"missing_slots": [true, -1, "2", 1e9]}',
     '{"slow_slots": [3, {"slot": 1}, {"slot": 1, "factor": 0.5}, {"slot": true, "factor": 2}]}', "[" * 99999],
    ids=range(7),
)  # fmt: skip
def test_a_health_that_is_not_ours_says_nothing_of_slots(text: str) -> None:
    assert missing_slots(text) == ()
    assert slow_slots(text) == ()


def test_where_nobody_listens_the_endpoint_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = ask_once(Target("uid", "127.0.0.1", taken.getsockname()[1]))
    assert not found.answered
    assert "127.0.0.1" in found.said


def test_the_runtime_names_its_metrics_as_they_are_read() -> None:
    source = (Path(__file__).parents[2] / "runtime/moe_runtime/frontend/metrics.py").read_text()
    for name in (OURS.ttft, OURS.tpot, f'"{OURS.tokens.removesuffix("_total")}"'):
        assert name in source
