"""`serve` from start to end: what it says, how it stops, and that nothing outlives it, however it ends."""

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from endpoint import Command, Endpoint, events, wait_until_gone
from tiny_models import PROMPTS, TinyModel
from tiny_plans import tiny_plan

from moe_runtime.cli import main

LAYOUT = {"ep": 2, "tp": 1, "pp": 1}


@pytest.fixture
def endpoint(tmp_path: Path, qwen3_moe: TinyModel) -> Iterator[Endpoint]:
    with Endpoint(tmp_path, tiny_plan(qwen3_moe.config, **LAYOUT), qwen3_moe.path) as endpoint:
        yield endpoint


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))  # noqa: PTH208  # names alone


def ask(endpoint: Endpoint, **body: Any) -> httpx.Response:
    with endpoint.client() as client:
        return client.post("/v1/completions", json={"prompt": [1, 2, 3], "temperature": 0, **body})


@pytest.mark.slow
def test_it_tells_its_plan_a_line_a_stage_and_what_to_paste(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    plan = tiny_plan(qwen3_moe.config, ep=2, tp=2, pp=2, rank_order=("ep", "pp", "tp"))
    with Endpoint(tmp_path, plan) as endpoint:
        assert endpoint.url.startswith("http://127.0.0.1:")
        paste = endpoint.wait_for_line(r"^curl ")
        assert endpoint.lines[:3] == [
            "tiny: tiny on 8 cpu ranks, EP2·TP2·PP2, random weights",
            "stage 0: layers 0–1, ranks 0–1, 4–5, 1 slot",
            "stage 1: layer 2, ranks 2–3, 6–7, 1 slot",
        ]
        assert "no tokenizer.json: prompts are lists of token ids" in endpoint.lines
        assert any(re.fullmatch(r"ranks up in \d+\.\d s", line) for line in endpoint.lines)
        pasted = re.fullmatch(r"curl (\S+) -H '(\S+): (\S+)' -d '(.*)'", paste.string)
        assert pasted
        response = httpx.post(pasted[1], headers={pasted[2]: pasted[3]}, content=pasted[4], timeout=60)
        assert response.json()["usage"]["completion_tokens"] == 32
        text = ask(endpoint, prompt="Hello").json()["error"]["message"]
        assert "no tokenizer.json, so it takes a list of token ids" in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0_and_nothing_left(endpoint: Endpoint, number: signal.Signals) -> None:
    before = shared_memory()
    assert ask(endpoint, max_tokens=2).status_code == 200
    family, port = endpoint.descendants(), endpoint.port
    assert len(endpoint.ranks()) == 2
    assert endpoint.end(number) == 0
    assert wait_until_gone(family) == set()
    assert shared_memory() <= before
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@pytest.mark.slow
def test_a_signal_lets_running_requests_finish(endpoint: Endpoint) -> None:
    body = {"prompt": [1, 2, 3], "max_tokens": 60, "temperature": 0, "stream": True, "return_token_ids": True}
    with endpoint.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        stream = events(response)
        next(stream)
        endpoint.process.send_signal(signal.SIGTERM)
        assert len(list(stream)) == 59
    assert endpoint.wait() == 0


@pytest.mark.slow
def test_a_second_signal_ends_running_requests(endpoint: Endpoint) -> None:
    body = {"prompt": [1, 2, 3], "max_tokens": 250, "temperature": 0, "stream": True}
    with endpoint.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(endpoint.ranks()[0], signal.SIGSTOP)  # so that the answer cannot be complete in time
        endpoint.process.send_signal(signal.SIGTERM)
        endpoint.wait_for_line("^stopping")
        endpoint.process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
    assert "the server is shutting down" in last
    family = endpoint.descendants()
    assert endpoint.wait() == 0
    assert wait_until_gone(family) == set()


@pytest.mark.slow
def test_a_signal_during_the_start_ends_it_at_once(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    with Endpoint(tmp_path, tiny_plan(qwen3_moe.config, **LAYOUT), qwen3_moe.path) as endpoint:
        endpoint.wait_for_line("^starting 2 ranks")
        family = endpoint.descendants()
        assert endpoint.end(signal.SIGTERM) in (0, 128 + signal.SIGTERM)
        assert wait_until_gone(family) == set()


@pytest.mark.slow
def test_a_request_survives_a_lost_rank(endpoint: Endpoint, qwen3_moe: TinyModel) -> None:
    wanted = qwen3_moe.greedy([PROMPTS[0]], 40)[0]
    body = {"prompt": PROMPTS[0], "max_tokens": 40, "temperature": 0, "stream": True, "return_token_ids": True}
    with endpoint.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        stream = events(response)
        got = [next(stream) for _ in range(5)]
        os.kill(endpoint.ranks()[1], signal.SIGKILL)
        got += stream
        metrics = client.get("/metrics").text
    assert [token for event in got for token in event["choices"][0]["token_ids"]] == wanted
    assert "moe_rank_restarts_total 1.0" in metrics
    endpoint.wait_for_line("SIGKILL.*; starting the ranks again")
    endpoint.wait_for_line("ranks up in")
    assert ask(endpoint, max_tokens=3).status_code == 200
    family = endpoint.descendants()
    assert endpoint.end() == 0
    assert wait_until_gone(family) == set()


@pytest.mark.slow
def test_health_tells_of_the_start(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = tiny_plan(qwen3_moe.config, **LAYOUT)
    with Endpoint(tmp_path, plan, qwen3_moe.path, options=["--port", str(port)]) as endpoint:
        endpoint.wait_for_line("^starting 2 ranks")
        response = httpx.get(f"http://127.0.0.1:{port}/health", timeout=60)
        assert response.status_code == 503
        assert response.json() == {"status": "starting", "detail": "2 ranks are starting"}
        refused = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"prompt": [1]}, timeout=60)
        assert refused.status_code == 503
        assert "not ready yet" in refused.json()["error"]["message"]
        assert endpoint.url.endswith(str(port))
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["frontend", "ranks' parent"])
def test_nothing_survives_a_killed_part(endpoint: Endpoint, victim: str) -> None:
    before = shared_memory()
    assert ask(endpoint, max_tokens=2).status_code == 200
    family = endpoint.descendants()
    if victim == "frontend":
        endpoint.end(signal.SIGKILL)
        assert wait_until_gone(family) == set()
    else:
        (parent,) = family - set(endpoint.ranks())
        os.kill(parent, signal.SIGKILL)
        assert wait_until_gone(family) == set()
        assert ask(endpoint, max_tokens=2).status_code == 200
        assert endpoint.end() == 0
    assert shared_memory() <= before


def test_a_port_in_use_is_told_before_anything_starts(
    tmp_path: Path, qwen3_moe: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(tiny_plan(qwen3_moe.config).model_dump_json())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--plan", str(tmp_path / "plan.json"), "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said == (
        f"error: port {port} of 127.0.0.1 is in use; stop what listens there, or choose another with --port\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not a plan"), ('{"name": "x"}', "is not a plan: "), ("[]", "is not a plan"), ("", "is not a plan")],
)
def test_a_file_that_is_no_plan_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "plan.json").write_text(content)
    assert main(["serve", "--plan", str(tmp_path / "plan.json")]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_bad_checkpoint_ends_it_with_a_sentence(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in qwen3_moe.path.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    (weights,) = checkpoint.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with Endpoint(tmp_path, tiny_plan(qwen3_moe.config, **LAYOUT), checkpoint) as command:
        assert command.wait() == 1
    assert weights.name in command.lines[-1]
    assert "Traceback" not in command.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_bad_tokenizer_ends_it_with_a_sentence(tmp_path: Path, qwen3_moe: TinyModel, name: str) -> None:
    for file in qwen3_moe.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text("{")
    with Endpoint(tmp_path, tiny_plan(qwen3_moe.config), tmp_path) as command:
        assert command.wait() == 1
    assert name in command.lines[-1]
    assert "Traceback" not in command.stderr


@pytest.mark.slow
def test_the_bench_prints_what_it_saw(endpoint: Endpoint) -> None:
    sizes = ["--requests", "5", "--concurrency", "2", "--input-tokens", "9", "--output-tokens", "4"]
    with Command(["bench", "--url", f"{endpoint.url}/v1", *sizes]) as command:
        assert command.process.stdout is not None
        said = command.process.stdout.read()
        assert command.wait() == 0, command.stderr
    assert said.startswith("5 requests answered by tiny (9 tokens in, 4 out, 2 at a time)")
    assert "TTFT" in said
    assert "TPOT" in said


def test_the_bench_tells_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        assert main(["bench", "--url", url]) == 1
    assert "does not answer as an OpenAI-style endpoint" in capsys.readouterr().err
    assert threading.active_count() < 20
