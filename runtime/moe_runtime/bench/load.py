"""Load against an OpenAI-style endpoint: a fixed number of clients, each asking again as soon as it is answered.

Prompts are random token ids, so that requests differ and experts are met evenly. TTFT runs from sending a request to
its first token, TPOT from there to the last over the tokens after the first.
"""

import http.client
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import SplitResult, urlsplit

from moe_runtime.errors import RuntimeFailure

FALLBACK_VOCABULARY = 1000
"""Token ids below it exist in any model; for endpoints that do not tell theirs."""


class EndpointError(RuntimeFailure):
    """The endpoint cannot be reached, or does not answer as one should."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for."""

    url: str
    """Base address, with its /v1."""
    concurrency: int
    requests: int
    input_tokens: int
    output_tokens: int
    model: str | None = None
    """The endpoint's first model when None."""
    api_key: str | None = None
    seed: int = 0
    timeout_s: float = 600.0
    """Longest silence of the endpoint."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request saw."""

    ttft: float
    tpot: float | None
    """None for an answer of one token."""
    tokens: int


@dataclass(frozen=True, slots=True)
class Spread:
    """A measure over all requests."""

    minimum: float
    median: float
    p95: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the load saw. Times are seconds."""

    load: dict[str, Any]
    answered: int
    failed: int
    first_failure: str | None
    duration_s: float
    output_tokens: int
    output_tokens_per_s: float
    requests_per_s: float
    ttft_s: Spread | None
    tpot_s: Spread | None
    tokens_per_s_per_request: Spread | None
    """Output tokens a second as one client sees them: 1 / TPOT."""

    def as_json(self) -> str:
        """The report for a machine."""
        return json.dumps(asdict(self), indent=2)

    def as_table(self) -> str:
        """The report for a person."""
        return "\n".join(_table(self))


def run_load(load: Load) -> Report:
    """Put the load on the endpoint. Raises EndpointError when it cannot be reached or no request is answered."""
    model, vocabulary = _served(load)
    todo: SimpleQueue[dict[str, Any]] = SimpleQueue()
    for body in _bodies(load, model, vocabulary):
        todo.put(body)
    results: SimpleQueue[Answer | str] = SimpleQueue()
    # Daemons, so that Ctrl-C ends the program and not only its first thread.
    clients = [
        threading.Thread(target=_client, args=(load, todo, results), daemon=True)
        for _ in range(min(load.concurrency, load.requests))
    ]
    started = time.monotonic()
    for client in clients:
        client.start()
    seen = [results.get() for _ in range(load.requests)]
    return _report(load, model, seen, time.monotonic() - started)


def _client(load: Load, todo: "SimpleQueue[dict[str, Any]]", results: "SimpleQueue[Answer | str]") -> None:
    while True:
        try:
            body = todo.get_nowait()
        except Empty:
            return
        try:
            results.put(_ask(load, body))
        except (EndpointError, OSError, http.client.HTTPException, ValueError) as error:
            results.put(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _ask(load: Load, body: dict[str, Any]) -> Answer:
    started = time.monotonic()
    response = _send(load, "POST", "/completions", body)
    times, counted = [], None
    for event in _events(response):
        if "error" in event:
            raise EndpointError(str(event["error"].get("message", event["error"])))
        if event.get("choices"):
            times.append(time.monotonic())
        counted = (event.get("usage") or {}).get("completion_tokens", counted)
    if not times:
        raise EndpointError("the endpoint ended the stream without a token")
    tokens = counted or len(times)
    tpot = (times[-1] - times[0]) / (tokens - 1) if tokens > 1 else None
    return Answer(times[0] - started, tpot, tokens)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to [DONE]."""
    for line in response:
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if line.startswith(b"data:"):
            yield json.loads(data)


def _bodies(load: Load, model: str, vocabulary: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(load.seed)  # noqa: S311  # prompts, not secrets
    for _ in range(load.requests):
        yield {
            "model": model,
            "prompt": [draw.randrange(vocabulary) for _ in range(load.input_tokens)],
            "max_tokens": load.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def _served(load: Load) -> tuple[str, int]:
    """Name and vocabulary of the model to ask."""
    try:
        cards = json.load(_send(load, "GET", "/models", None))["data"]
        card = next((card for card in cards if load.model in (None, card["id"])), None)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise EndpointError(f"{load.url} does not answer as an OpenAI-style endpoint: {error}") from error
    if card is None:
        raise EndpointError(f"{load.url} does not serve {load.model!r}; it serves {[one['id'] for one in cards]}")
    return card["id"], int(card.get("vocab_size") or FALLBACK_VOCABULARY)


def _send(load: Load, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
    """Raises EndpointError when the status is no success."""
    url = urlsplit(load.url)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if load.api_key:
        headers["Authorization"] = f"Bearer {load.api_key}"
    connection = _connection(url, load.timeout_s)
    connection.request(method, url.path.rstrip("/") + path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise EndpointError(f"{method} {load.url}{path} answers {response.status}: {_reason(response.read())}")
    return response


def _connection(url: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    if url.scheme not in ("http", "https") or not url.hostname:
        raise EndpointError(f"{url.geturl()!r} is no address of an endpoint; write http://HOST:PORT/v1")
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname, url.port, timeout=timeout_s)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _report(load: Load, model: str, seen: Sequence[Answer | str], duration_s: float) -> Report:
    answers = [one for one in seen if isinstance(one, Answer)]
    failures = [one for one in seen if isinstance(one, str)]
    if not answers:
        raise EndpointError(f"none of {load.requests} requests was answered: {failures[0]}")
    tokens = sum(answer.tokens for answer in answers)
    tpots = [answer.tpot for answer in answers if answer.tpot]
    asked = {key: value for key, value in asdict(load).items() if key != "api_key"}
    return Report(
        load={**asked, "model": model},
        answered=len(answers),
        failed=len(failures),
        first_failure=failures[0] if failures else None,
        duration_s=duration_s,
        output_tokens=tokens,
        output_tokens_per_s=tokens / duration_s,
        requests_per_s=len(answers) / duration_s,
        ttft_s=_spread([answer.ttft for answer in answers]),
        tpot_s=_spread(tpots),
        tokens_per_s_per_request=_spread([1 / tpot for tpot in tpots]),
    )


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    # The nearest-rank percentile: the smallest value that 95 % of all do not exceed.
    p95 = ordered[-(-len(ordered) * 95 // 100) - 1]
    return Spread(ordered[0], statistics.median(ordered), p95, ordered[-1])


def _table(report: Report) -> Iterator[str]:
    load = report.load
    shape = f"{load['input_tokens']} tokens in, {load['output_tokens']} out, {load['concurrency']} at a time"
    yield f"{report.answered} requests answered by {load['model']} ({shape}) in {report.duration_s:.1f} s"
    if report.failed:
        yield f"{report.failed} requests failed; the first: {report.first_failure}"
    yield f"{report.output_tokens_per_s:.1f} output tokens/s, {report.requests_per_s:.2f} requests/s"
    yield f"{'':24}{'min':>12}{'median':>12}{'p95':>12}{'max':>12}"
    yield _row("TTFT", report.ttft_s, _milliseconds)
    yield _row("TPOT", report.tpot_s, _milliseconds)
    yield _row("tokens/s a request", report.tokens_per_s_per_request, lambda value: f"{value:.1f}")


def _row(name: str, spread: Spread | None, show: Callable[[float], str]) -> str:
    values = [spread.minimum, spread.median, spread.p95, spread.maximum] if spread else []
    return f"{name:24}" + "".join(f"{show(value):>12}" for value in values)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
