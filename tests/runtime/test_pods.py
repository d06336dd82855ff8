"""A replica of several pods answers as one of one pod does, and goes on when a pod comes back."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from endpoint import STOP_DEADLINE_S, Command, Endpoint, events, wait_until_gone
from pods import Pods, address, in_slots, kill_pod, running
from tiny_models import PROMPTS, TinyModel, make_tiny
from tiny_plans import tiny_plan

from moe_plan.plan import Plan

LAYOUT = {"ep": 2, "tp": 2, "pp": 2, "micro_batches": 2}
STREAMED = 60


def small_plan(tiny: TinyModel, slots: int) -> Plan:
    return in_slots(tiny_plan(tiny.config, **LAYOUT), slots)


def answer(endpoint: Endpoint, prompt: list[int], tokens: int) -> list[int]:
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "return_token_ids": True}
    with endpoint.client() as client:
        response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    tokens_given: list[int] = response.json()["choices"][0]["token_ids"]
    return tokens_given


def streamed(endpoint: Endpoint, after_five: Callable[[], None]) -> list[int]:
    """Tokens of a stream, and something done when five of them have come."""
    body = {"prompt": PROMPTS[0], "max_tokens": STREAMED, "temperature": 0, "stream": True, "return_token_ids": True}
    with endpoint.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        stream = events(response)
        got = [next(stream) for _ in range(5)]
        after_five()
        got += stream
    return [token for event in got for token in event["choices"][0]["token_ids"]]


def until(holds: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + STOP_DEADLINE_S
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        threading.Event().wait(0.05)


def health(endpoint: Endpoint) -> dict[str, object]:
    with endpoint.client() as client:
        said: dict[str, object] = client.get("/health").json()
    return said


def ranks_of(pod: Command) -> list[int]:
    """Process ids of a worker's ranks and gateway: those without children."""
    family = pod.descendants()
    return sorted(pid for pid in family if not Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.fixture(scope="module")
def two_pods(tmp_path_factory: pytest.TempPathFactory, qwen3_moe: TinyModel) -> Iterator[tuple[Pods, Endpoint]]:
    """A replica of two pods that tests leave whole."""
    with running(tmp_path_factory.mktemp("pods"), small_plan(qwen3_moe, 2), qwen3_moe.path) as pods_and_endpoint:
        assert pods_and_endpoint[1].url
        yield pods_and_endpoint


@pytest.mark.slow
def test_pods_answer_with_the_tokens_of_transformers(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    with running(tmp_path, small_plan(qwen3_moe, 4), qwen3_moe.path) as (pods, endpoint):
        assert [answer(endpoint, prompt, 6) for prompt in PROMPTS] == qwen3_moe.greedy(PROMPTS)
        assert [pods.probe(slot).status_code for slot in (1, 2, 3)] == [200, 200, 200]
        assert health(endpoint) == {"status": "ready", "detail": ""}
        computed = sum(len(prompt) + 6 - 1 for prompt in PROMPTS) * 2 * 3  # top 2 in 3 layers
        until(lambda: expert_tokens(endpoint) == computed, "the counters of all slots")


def expert_tokens(endpoint: Endpoint) -> float:
    with endpoint.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("moe_expert_tokens_total"))


@pytest.mark.slow
def test_a_stream_goes_on_when_a_killed_pod_is_replaced_at_another_address(
    two_pods: tuple[Pods, Endpoint], qwen3_moe: TinyModel
) -> None:
    pods, endpoint = two_pods

    def kill_and_replace() -> None:
        kill_pod(pods.workers[1])
        until(lambda: health(endpoint).get("missing_slots") == [1], "the frontend to miss slot 1")
        pods.worker(1, address(9))

    assert streamed(endpoint, kill_and_replace) == qwen3_moe.greedy([PROMPTS[0]], STREAMED)[0]
    assert health(endpoint) == {"status": "ready", "detail": ""}


@pytest.mark.slow
def test_a_stream_goes_on_when_a_rank_of_another_pod_is_killed(
    two_pods: tuple[Pods, Endpoint], qwen3_moe: TinyModel
) -> None:
    pods, endpoint = two_pods
    victim = ranks_of(pods.workers[1])[0]
    tokens = streamed(endpoint, lambda: os.kill(victim, signal.SIGKILL))
    assert tokens == qwen3_moe.greedy([PROMPTS[0]], STREAMED)[0]
    endpoint.wait_for_line(r"rank 4 was killed by SIGKILL.*starting the ranks again")


@pytest.mark.soak
def test_ranks_lost_while_nobody_asks_are_back_before_the_next_request(
    two_pods: tuple[Pods, Endpoint], qwen3_moe: TinyModel
) -> None:
    pods, endpoint = two_pods
    os.kill(ranks_of(pods.workers[1])[1], signal.SIGKILL)
    endpoint.wait_for_line(r"rank 5 was killed by SIGKILL.*starting the ranks again")
    endpoint.wait_for_line(r"^ranks up")
    assert answer(endpoint, PROMPTS[1], 6) == qwen3_moe.greedy([PROMPTS[1]])[0]


@pytest.mark.soak
def test_a_pod_that_is_told_to_end_first_finishes_what_runs(
    two_pods: tuple[Pods, Endpoint], qwen3_moe: TinyModel
) -> None:
    pods, endpoint = two_pods
    with ThreadPoolExecutor() as asking:
        later = []

        def tell_to_end() -> None:
            pods.workers[1].process.send_signal(signal.SIGTERM)
            until(lambda: health(endpoint)["status"] == "recovering", "the frontend to know")
            later.append(asking.submit(answer, endpoint, PROMPTS[1], 6))

        assert streamed(endpoint, tell_to_end) == qwen3_moe.greedy([PROMPTS[0]], STREAMED)[0]
        assert pods.workers[1].wait() == 0
        assert "the frontend needs this slot no more" in pods.workers[1].stderr
        assert not later[0].done()
        pods.worker(1)
        assert later[0].result() == qwen3_moe.greedy([PROMPTS[1]])[0]


@pytest.mark.soak
def test_whoever_else_connects_is_hung_up_on(two_pods: tuple[Pods, Endpoint], qwen3_moe: TinyModel) -> None:
    pods, endpoint = two_pods
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x01\x00\x00\x00" + b"\xff" * 60, b""):
        with socket.create_connection((address(0), pods.port), timeout=60) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
    assert answer(endpoint, PROMPTS[1], 6) == qwen3_moe.greedy([PROMPTS[1]])[0]


@pytest.mark.soak
def test_a_pod_of_another_attempt_is_refused_with_the_reason(two_pods: tuple[Pods, Endpoint]) -> None:
    pods, endpoint = two_pods
    stale = Pods(pods.folder, pods.plan, pods.checkpoint, attempt=2)
    stale.port = pods.port
    command = ["serve", "--plan", str(pods.folder / "plan.json"), "--host", address(7)]
    with Command(command, stale.environment(1, address(7))) as pod:
        pod.wait_for_line("has not taken it in: it is of attempt 2, the frontend of 1")
        probe = httpx.get(f"http://{address(7)}:{stale.agent_port}/agent/ready", timeout=60)
        assert probe.status_code == 503
        assert "attempt 2" in probe.text
        assert httpx.get(f"http://{address(7)}:{stale.agent_port}/agent/live", timeout=60).status_code == 200
        assert pod.end() == 0
    assert health(endpoint)["status"] == "ready"


@pytest.mark.soak
def test_the_frontend_names_the_slots_it_waits_for(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    with running(tmp_path, small_plan(qwen3_moe, 2), qwen3_moe.path, absent=[1]) as (pods, endpoint):
        endpoint.wait_for_line("^starting 8 ranks")
        url = f"http://{address(0)}:{listening_port(endpoint)}/health"
        response = httpx.get(url, timeout=60)
        assert response.status_code == 503
        assert response.json() == {"status": "starting", "detail": "8 ranks are starting", "missing_slots": [1]}
        pods.worker(1)
        assert endpoint.url
        assert httpx.get(url, timeout=60).status_code == 200


def listening_port(endpoint: Endpoint) -> int:
    """Its HTTP port, before it says that it is ready: the one of two where nobody is refused."""
    sockets = {str(link.readlink()) for link in Path(f"/proc/{endpoint.process.pid}/fd").iterdir()}
    inodes = {name[8:-1] for name in sockets if name.startswith("socket:")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = [int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes]
    for port in ports:
        try:
            httpx.get(f"http://{address(0)}:{port}/health", timeout=60)
        except httpx.HTTPError:
            continue
        return port
    raise AssertionError(f"none of the ports {ports} answers HTTP")


@pytest.mark.soak
def test_told_to_end_the_frontend_finishes_and_the_workers_wait_for_another(
    tmp_path: Path, qwen3_moe: TinyModel
) -> None:
    with running(tmp_path, small_plan(qwen3_moe, 2), qwen3_moe.path) as (pods, endpoint):
        assert endpoint.url
        tokens = streamed(endpoint, lambda: endpoint.process.send_signal(signal.SIGTERM))
        assert tokens == qwen3_moe.greedy([PROMPTS[0]], STREAMED)[0]
        assert endpoint.wait() == 0
        pods.workers[1].wait_for_line("^waiting: the frontend at")
        assert wait_until_gone(pods.workers[1].descendants()) == set()
        assert pods.probe(1).status_code == 503
        assert answer(pods.frontend(), PROMPTS[1], 6) == qwen3_moe.greedy([PROMPTS[1]])[0]


@pytest.mark.soak
def test_a_frontend_killed_at_once_is_followed_by_another_whose_workers_have_waited(
    tmp_path: Path, qwen3_moe: TinyModel
) -> None:
    with running(tmp_path, small_plan(qwen3_moe, 2), qwen3_moe.path) as (pods, endpoint):
        with pytest.raises(httpx.HTTPError):
            streamed(endpoint, lambda: kill_pod(endpoint))
        pods.workers[1].wait_for_line("^waiting: the frontend at")
        assert wait_until_gone(pods.workers[1].descendants()) == set()
        assert answer(pods.frontend(), PROMPTS[1], 6) == qwen3_moe.greedy([PROMPTS[1]])[0]


@pytest.mark.soak
def test_a_pod_whose_checkpoint_is_bad_ends_the_replica_with_its_sentence(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    (tmp_path / "empty").mkdir()
    with running(tmp_path, small_plan(qwen3_moe, 2), qwen3_moe.path, absent=[1]) as (pods, endpoint):
        pods.checkpoint = tmp_path / "empty"
        pods.worker(1)
        assert endpoint.wait() == 1
        assert endpoint.lines[-1].startswith("error: slot 1: "), endpoint.stderr
        assert "config.json: there is no such file" in endpoint.lines[-1]
        assert "Traceback" not in endpoint.stderr


@pytest.mark.soak
def test_128_ranks_in_16_pods_give_the_tokens_of_transformers(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path / "model", "mixtral", num_hidden_layers=4, num_local_experts=64)
    plan = in_slots(tiny_plan(tiny.config, ep=64, tp=2), 16)
    prompts = [[(31 * i + j) % 99 for j in range(1 + 5 * i)] for i in range(6)]
    with running(tmp_path, plan, tiny.path) as (_, endpoint), ThreadPoolExecutor() as asking:
        endpoint.wait_for_line(r"^ranks up", deadline_s=600)  # PyTorch is imported 16 times, beside whatever else runs
        answers = asking.map(lambda prompt: answer(endpoint, prompt, 6), prompts)
        assert list(answers) == tiny.greedy(prompts)


@pytest.mark.soak
def test_pods_that_tp_crosses_give_the_tokens_of_transformers(tmp_path: Path, qwen3_moe: TinyModel) -> None:
    plan = in_slots(tiny_plan(qwen3_moe.config, ep=2, tp=2), 4)
    with running(tmp_path, plan, qwen3_moe.path) as (_, endpoint):
        assert [answer(endpoint, prompt, 6) for prompt in PROMPTS] == qwen3_moe.greedy(PROMPTS)
