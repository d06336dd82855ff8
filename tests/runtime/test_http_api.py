"""What clients see of a served model: OpenAI's requests, answered by 8 real ranks with the tokens of transformers."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from endpoint import DEADLINE_S, events
from served import KEY, Served
from tiny_models import PROMPTS

LONG = [11, 7, 190, 4, 4, 87]


def text_of(served: Served, tokens: list[int]) -> str:
    return served.tokenizer.decode(tokens)


def greedy(served: Served, prompt: list[int], tokens: int) -> list[int]:
    return served.tiny.greedy([prompt], tokens)[0]


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_an_answer_is_what_transformers_generates(served: Served, prompt: list[int]) -> None:
    assert served.tokens(prompt=prompt, max_tokens=12, ignore_eos=True) == greedy(served, prompt, 12)


def test_a_text_prompt_is_answered_with_text(served: Served) -> None:
    prompt = list(served.tokenizer.encode("Größe"))
    answer = served.ask(prompt="Größe", max_tokens=12, ignore_eos=True)
    assert answer["object"] == "text_completion"
    assert answer["model"] == "tiny"
    assert answer["id"].startswith("cmpl-")
    choice = answer["choices"][0]
    assert choice["text"] == text_of(served, [*prompt, *greedy(served, prompt, 12)])[len("Größe") :]
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": 12, "total_tokens": 20}


def test_several_prompts_are_answered_in_their_order(served: Served) -> None:
    choices = served.ask(prompt=PROMPTS, max_tokens=6, ignore_eos=True)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert [choice["token_ids"] for choice in choices] == served.tiny.greedy(PROMPTS, 6)


def test_an_answer_ends_with_the_models_end_token_and_does_not_show_it(served: Served) -> None:
    answer = served.ask(prompt=PROMPTS[0], max_tokens=20)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"] == greedy(served, PROMPTS[0], 4)
    assert choice["token_ids"][-1] == served.end_token
    assert choice["text"] == text_of(served, choice["token_ids"][:3])


def test_without_max_tokens_a_completion_has_16(served: Served) -> None:
    assert len(served.tokens(prompt=LONG, ignore_eos=True)) == 16


def test_a_stream_carries_the_same_answer_piece_by_piece(served: Served) -> None:
    body = {"prompt": LONG, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    whole = served.ask(**body)
    stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with served.client.stream("POST", "/v1/completions", json=stream) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, last = events(response)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len(choices) > 8
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [token for choice in choices for token in choice["token_ids"]] == whole["choices"][0]["token_ids"]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_conversation_is_put_through_the_models_template(served: Served) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    body = {"messages": messages, "temperature": 0, "max_tokens": 10, "ignore_eos": True, "return_token_ids": True}
    response = served.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    prompt = served.tokenizer.encode_rendered("<system>Be kind.</s><user>Hi</s><assistant>")
    assert prompt.count(257) == 2
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["token_ids"] == greedy(served, list(prompt), 10)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["prompt_tokens"] == len(prompt)


def test_a_streamed_conversation_begins_with_the_role(served: Served) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_completion_tokens": 10}
    whole = served.client.post("/v1/chat/completions", json=body).json()
    with served.client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        first, *rest = events(response)
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in rest)
    assert text == whole["choices"][0]["message"]["content"]
    assert rest[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_a_conversation_without_a_limit_may_fill_the_model(served: Served) -> None:
    body = {"messages": [{"role": "user", "content": "Hi" * 110}], "temperature": 0, "ignore_eos": True}
    usage = served.client.post("/v1/chat/completions", json=body).json()["usage"]
    assert usage["total_tokens"] == 256


def test_an_answer_ends_before_a_stop_string(served: Served) -> None:
    whole = served.ask(prompt=LONG, max_tokens=24, ignore_eos=True)["choices"][0]["text"]
    stop = whole[5:8]
    answer = served.ask(prompt=LONG, max_tokens=24, ignore_eos=True, stop=["never seen", stop])
    assert answer["choices"][0]["text"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 24


def test_a_seed_draws_the_same_tokens_again(served: Served) -> None:
    def drawn(seed: int, **more: float) -> list[int]:
        return served.tokens(prompt=LONG, max_tokens=12, temperature=1.5, seed=seed, ignore_eos=True, **more)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1, top_k=1) == greedy(served, LONG, 12)
    assert drawn(1, top_p=0.000001) == greedy(served, LONG, 12)
    assert drawn(-(2**70)) == drawn(-(2**70))


def test_logprobs_are_the_models(served: Served) -> None:
    choice = served.ask(prompt=LONG, max_tokens=4, logprobs=1, ignore_eos=True)["choices"][0]
    tokens = choice["token_ids"]
    wanted = torch.log_softmax(served.tiny.logits([*LONG, *tokens])[len(LONG) - 1 : -1], -1)
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(
        [wanted[i, token].item() for i, token in enumerate(tokens)], abs=1e-4
    )
    assert [max(top.values()) for top in choice["logprobs"]["top_logprobs"]] == choice["logprobs"]["token_logprobs"]


def test_chat_logprobs_name_each_token(served: Served) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0, "logprobs": True}
    content = served.client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    assert all(one["logprob"] <= 0 and bytes(one["bytes"]).decode() == one["token"] for one in content)


def test_many_clients_at_once_get_what_each_gets_alone(served: Served) -> None:
    prompts = [[(7 * i + j * j) % 250 for j in range(1 + (i * 13) % 90)] for i in range(24)]
    wanted = served.tiny.greedy(prompts, 5)
    with ThreadPoolExecutor(len(prompts)) as pool:
        got = list(pool.map(lambda prompt: served.tokens(prompt=prompt, max_tokens=5, ignore_eos=True), prompts))
    assert got == wanted


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    before = served.metric('moe_requests_total{outcome="cancelled"}')
    body = {"prompt": LONG, "max_tokens": 240, "temperature": 0, "ignore_eos": True, "stream": True}
    with served.client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        served.client.post("/v1/completions", json={**body, "stream": False}, timeout=httpx.Timeout(30, read=0.01))
    until = time.monotonic() + DEADLINE_S
    while served.metric('moe_requests_total{outcome="cancelled"}') < before + 2:
        assert time.monotonic() < until
    assert served.metric("moe_running_requests") == 0
    assert served.metric("moe_kv_pages_used") == 0


def test_the_model_is_listed(served: Served) -> None:
    listed = served.client.get("/v1/models").json()["data"]
    assert [card["id"] for card in listed] == ["tiny"]
    assert listed[0]["max_model_len"] == 256
    assert served.client.get("/v1/models/tiny").json() == listed[0]
    assert served.client.get("/v1/models/other").status_code == 404


def test_health_needs_no_key(served: Served) -> None:
    with served.endpoint.client() as client:
        response = client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"


def test_without_the_key_nothing_is_answered(served: Served) -> None:
    with served.endpoint.client() as client:
        for headers in (
            {},
            {"Authorization": KEY},
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": b"Bearer \xff"},
        ):
            response = client.post("/v1/completions", json={"prompt": [1]}, headers=headers)
            assert response.status_code == 401
            assert "Authorization: Bearer" in response.json()["error"]["message"]
        assert client.get("/v1/models").status_code == 401


def test_metrics_count_requests_tokens_and_times(served: Served) -> None:
    names = (
        "moe_prompt_tokens_total",
        "moe_generated_tokens_total",
        "moe_ttft_seconds_count",
        "moe_step_seconds_count",
    )
    before = [served.metric(name) for name in names]
    served.tokens(prompt=LONG, max_tokens=5, ignore_eos=True)
    prompt, generated, first, steps = (served.metric(name) - old for name, old in zip(names, before, strict=True))
    assert (prompt, generated, first, steps) == (len(LONG), 5, 1, 5)
    assert served.metric("moe_kv_pages") == 2 * 1024 / 16
    assert "moe_expert_tokens_total{" in served.client.get("/metrics").text


def test_the_memory_of_every_rank_is_told(served: Served) -> None:
    served.tokens(prompt=LONG, max_tokens=5, ignore_eos=True)
    told = [served.metric(f'moe_rank_memory_bytes{{rank="{rank}"}}') for rank in range(8)]
    resident = [_resident_bytes(pid) for pid in served.endpoint.ranks()]
    assert all(0 < taken < most for taken, most in zip(told, resident, strict=True)), told


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_frontend_has_no_torch(served: Served) -> None:
    assert "libtorch" not in Path(f"/proc/{served.endpoint.process.pid}/maps").read_text()


def test_a_body_may_come_in_pieces(served: Served) -> None:
    body = json.dumps({"prompt": LONG, "max_tokens": 2, "temperature": 0}).encode()
    pieces = (body[i : i + 5] for i in range(0, len(body), 5))
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert served.client.post("/v1/completions", content=pieces, headers=headers).status_code == 200
