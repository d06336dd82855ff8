"""What a client sees that asks for what cannot be: a status, and OpenAI's error body with one sentence that helps."""

import json
import socket
from typing import Any

import httpx
import pytest
from served import Served

JSON = {"Content-Type": "application/json"}

COMPLETIONS: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("no prompt", {}, "prompt", "prompt: is required"),
    ("an empty text", {"prompt": []}, "prompt", "a string, a list of token ids"),
    ("a prompt of another type", {"prompt": {"a": 1}}, "prompt", "a string, a list of token ids"),
    ("a null prompt", {"prompt": None}, "prompt", "a string, a list of token ids"),
    ("tokens as texts", {"prompt": [1, "2"]}, "prompt", "a string, a list of token ids"),
    ("tokens as booleans", {"prompt": [True]}, "prompt", "a string, a list of token ids"),
    ("a token beyond the vocabulary", {"prompt": [300]}, "prompt", "300 is no token id; they are 0 to 299"),
    ("a negative token", {"prompt": [-1]}, "prompt", "-1 is no token id"),
    ("half a character", {"prompt": "\ud800"}, "prompt", "half a surrogate pair"),
    ("too many prompts", {"prompt": ["a"] * 257}, "prompt", "at most 256"),
    ("a prompt that fills the model", {"prompt": [1] * 256}, "prompt", "takes 256 tokens a request"),
    (
        "more tokens than fit",
        {"prompt": [1] * 100, "max_tokens": 157},
        "prompt",
        "100 prompt tokens and 157 to generate",
    ),
    ("a very long text", {"prompt": "x" * 100_000}, "prompt", "100001 prompt tokens"),
    ("tokens as a text", {"prompt": "x", "max_tokens": "5"}, "max_tokens", "max_tokens: must be a valid integer"),
    ("no tokens", {"prompt": "x", "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ("a huge number", {"prompt": "x", "max_tokens": 10**40}, "prompt", "256 tokens a request"),
    ("a huge top_k", {"prompt": "x", "top_k": 2**70}, "top_k", "less than or equal to"),
    ("too hot", {"prompt": "x", "temperature": 2.1}, "temperature", "temperature: must be less than or equal to 2"),
    (
        "a temperature in words",
        {"prompt": "x", "temperature": "hot"},
        "temperature",
        "temperature: must be a valid number",
    ),
    ("top_p of nothing", {"prompt": "x", "top_p": 0}, "top_p", "greater than 0"),
    ("an empty stop", {"prompt": "x", "stop": ""}, "stop", "1 to 1024 characters"),
    ("too many stops", {"prompt": "x", "stop": ["a"] * 17}, "stop", "at most 16"),
    ("two answers", {"prompt": "x", "n": 2}, "n", "n: is not supported at any value but 1"),
    ("an echo", {"prompt": "x", "echo": True}, "echo", "echo: must be False"),
    ("a penalty", {"prompt": "x", "presence_penalty": 0.5}, "presence_penalty", "is not supported"),
    ("an unknown parameter", {"prompt": "x", "temprature": 1}, "temprature", "there is no such parameter"),
    ("an unknown option", {"prompt": "x", "stream_options": {"a": 1}}, "stream_options.a", "no such parameter"),
    ("logprobs of others", {"prompt": "x", "logprobs": 5}, "logprobs", "less than or equal to 1"),
    ("likeliest when drawn", {"prompt": "x", "logprobs": 1, "temperature": 1}, "logprobs", "for greedy answers only"),
]
CHATS: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("no messages", {}, "messages", "messages: is required"),
    ("an empty conversation", {"messages": []}, "messages", "at least 1"),
    ("a text for messages", {"messages": "Hi"}, "messages", "must be a valid list"),
    ("an unknown role", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'user'"),
    ("no content", {"messages": [{"role": "user"}]}, "messages.0.content", "is required"),
    (
        "a picture",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        None,
        "'text'",
    ),
    ("tools", {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools", "is not supported"),
    ("what the template refuses", {"messages": [{"role": "tool", "content": "x"}]}, "messages", "no tools here"),
    ("half a character", {"messages": [{"role": "user", "content": "\udfff"}]}, "messages", "half a surrogate pair"),
]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    assert "\n" not in error["message"]
    return error


def post(served: Served, path: str, body: dict[str, Any]) -> httpx.Response:
    # In ASCII: JSON can escape what UTF-8 cannot hold.
    return served.client.post(path, content=json.dumps(body), headers=JSON)


def ids(cases: list[tuple[str, dict[str, Any], str | None, str]]) -> list[str]:
    return [case[0] for case in cases]


@pytest.mark.parametrize(("_name", "body", "param", "message"), COMPLETIONS, ids=ids(COMPLETIONS))
def test_a_wrong_completion_is_told_what_is_wrong(
    served: Served, _name: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    error = error_of(post(served, "/v1/completions", body), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize(("_name", "body", "param", "message"), CHATS, ids=ids(CHATS))
def test_a_wrong_conversation_is_told_what_is_wrong(
    served: Served, _name: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    error = error_of(post(served, "/v1/chat/completions", body), 400)
    assert param in (None, error["param"])
    assert message in error["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1"),
        (b'{"prompt": "x"', "is not JSON"),
        (b'{"prompt": "x", "temperature": NaN}', "NaN is no JSON number"),
        (b'{"prompt": "\xff"}', "is not UTF-8: byte 12"),
        (b"[1, 2]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"[" * 200_000, "is not JSON that can be read"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "is not JSON that can be read"),
    ],
    ids=["nothing", "half", "not a number", "not UTF-8", "a list", "null", "deep", "long number"],
)
def test_what_is_no_json_is_told_so(served: Served, content: bytes, message: str) -> None:
    response = served.client.post("/v1/completions", content=content, headers=JSON)
    assert message in error_of(response, 400)["message"]


def test_a_form_is_told_which_header_to_send(served: Served) -> None:
    response = served.client.post("/v1/completions", data={"prompt": "x"})
    assert "Content-Type: application/json" in error_of(response, 415)["message"]


def test_a_body_beyond_reason_is_cut_short(served: Served) -> None:
    response = served.client.post("/v1/completions", content=b"x" * (17 * 2**20), headers=JSON)
    assert "larger than" in error_of(response, 413)["message"]


def test_another_model_is_not_found(served: Served) -> None:
    response = served.client.post("/v1/completions", json={"model": "gpt-9", "prompt": "x"})
    error = error_of(response, 404)
    assert error["code"] == "model_not_found"
    assert "'tiny' is" in error["message"]


def test_an_unknown_path_is_told_the_known_ones(served: Served) -> None:
    assert "/v1/chat/completions" in error_of(served.client.get("/v1/embeddings"), 404)["message"]


def test_a_wrong_method_is_told_the_right_one(served: Served) -> None:
    response = served.client.get("/v1/completions")
    assert "POST" in error_of(response, 405)["message"]
    assert response.headers["allow"] == "POST"


def test_what_is_no_http_does_not_disturb_the_others(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.endpoint.port), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 what is this?\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    assert len(served.tokens(prompt=[1, 2], max_tokens=2, ignore_eos=True)) == 2


def test_bad_requests_leave_nothing_running(served: Served) -> None:
    assert served.metric("moe_running_requests") == 0
    assert served.metric("moe_waiting_requests") == 0
