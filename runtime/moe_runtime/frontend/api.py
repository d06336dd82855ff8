"""The HTTP endpoint: OpenAI's /v1, /health, /metrics, /expert-loads. Whatever goes wrong, the client gets one clear error."""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response as HttpResponse
from starlette.responses import StreamingResponse
from starlette.routing import Route

from moe_runtime.errors import RuntimeFailure
from moe_runtime.frontend import answers as wording
from moe_runtime.frontend.answers import Piece, pieces
from moe_runtime.frontend.engine import Answers, Ask
from moe_runtime.frontend.errors import ApiError, Json, error_response, from_validation, unavailable
from moe_runtime.frontend.loads import expert_loads
from moe_runtime.frontend.metrics import CONTENT_TYPE
from moe_runtime.frontend.schemas import ChatBody, CompletionBody, Generation
from moe_runtime.frontend.service import Service

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 2**20
BODY_DEADLINE_S = 30.0
"""Time in which a client must send its body."""
MAX_WAITING = 2048
"""Requests that may wait for room."""
CLIENT_GONE = 499
"""Status in nobody's sight: the client closed the connection."""

Handler = Callable[[Request], Awaitable[HttpResponse]]
Asking = TypeVar("Asking", bound=Generation)
Result = TypeVar("Result")


def make_app(service: Service) -> Starlette:
    """The application of one service."""
    api = Api(service)
    routes = [
        Route("/health", _guarded(api.health), methods=["GET"]),
        Route("/metrics", _guarded(api.metrics), methods=["GET"]),
        Route("/expert-loads", _guarded(api.expert_loads), methods=["GET"]),
        Route("/v1/models", _guarded(api.authorised(api.models)), methods=["GET"]),
        Route("/v1/models/{model:path}", _guarded(api.authorised(api.model)), methods=["GET"]),
        Route("/v1/completions", _guarded(api.authorised(api.completions)), methods=["POST"]),
        Route("/v1/chat/completions", _guarded(api.authorised(api.chat)), methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})


class Api:
    """The handlers, each a request in and a response or an ApiError out."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def authorised(self, handler: Handler) -> Handler:
        """The handler for clients that bear the key, where there is one."""
        key = self._service.api_key
        expected = f"Bearer {key}".encode()

        async def check(request: Request) -> HttpResponse:
            given = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
            if key is not None and not hmac.compare_digest(given, expected):
                message = "the API key is missing or wrong; send the header Authorization: Bearer KEY"
                raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
            return await handler(request)

        return check

    async def health(self, _request: Request) -> HttpResponse:
        status = self._service.engine.status
        body: dict[str, Any] = {"status": status.state, "detail": status.detail}
        if status.missing_slots:
            body["missing_slots"] = list(status.missing_slots)
        if status.slow_slots:
            body["slow_slots"] = [{"slot": slot, "factor": round(pace, 1)} for slot, pace in status.slow_slots]
        return Json(body, status_code=200 if status.state == "ready" else 503)

    async def metrics(self, _request: Request) -> HttpResponse:
        return HttpResponse(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def expert_loads(self, _request: Request) -> HttpResponse:
        engine = self._service.engine
        tokens, since = engine.measured.expert_tokens(), engine.counting_since
        loads = await asyncio.to_thread(expert_loads, self._service.plan, tokens, since)
        return HttpResponse(loads.model_dump_json(), headers={"content-type": "application/json"})

    async def models(self, _request: Request) -> HttpResponse:
        return Json({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> HttpResponse:
        self._service.check_model(request.path_params["model"])
        return Json(self._card())

    async def completions(self, request: Request) -> HttpResponse:
        body = await _read_body(request, CompletionBody)
        shown = self._shown(body, logprobs=body.logprobs is not None, likeliest=bool(body.logprobs))
        answers = await self._submit(self._service.completion_asks, body)
        return await self._answer(request, body, answers, wording.CompletionWording(shown))

    async def chat(self, request: Request) -> HttpResponse:
        body = await _read_body(request, ChatBody)
        shown = self._shown(body, logprobs=bool(body.logprobs), likeliest=bool(body.top_logprobs))
        answers = await self._submit(self._service.chat_asks, body)
        return await self._answer(request, body, answers, wording.ChatWording(shown))

    def _card(self) -> dict[str, Any]:
        service = self._service
        limits = {"max_model_len": service.plan.limits.max_model_length, "vocab_size": service.vocab_size}
        return {
            "id": service.model,
            "object": "model",
            "created": service.created,
            "owned_by": "moe-operator",
            **limits,
        }

    def _shown(self, body: Generation, *, logprobs: bool, likeliest: bool) -> wording.Shown:
        return wording.Shown(self._service.tokenizer, logprobs, likeliest, body.return_token_ids)

    async def _submit(self, asks: Callable[[Asking], list[Ask]], body: Asking) -> Answers:
        engine = self._service.engine
        if engine.status.state == "starting":
            raise unavailable(f"the model is not ready yet: {engine.status.detail}")
        waiting = len(engine.scheduler.waiting)
        if waiting >= MAX_WAITING:
            raise ApiError(429, f"{waiting} requests wait already; try again later", kind="rate_limit_error")
        # In a thread, since a long text takes the tokenizer a while.
        prepared = await asyncio.to_thread(asks, body)
        try:
            return engine.submit(prepared)
        except RuntimeFailure as failure:
            raise unavailable(str(failure)) from failure

    async def _answer(
        self, request: Request, body: Generation, answers: Answers, words: wording.Wording
    ) -> HttpResponse:
        response = wording.Response(words, self._service.model, answers)
        parts = pieces(answers, self._service.tokenizer, body.stop or ())
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            events = _events(response, parts, [response.closing] if usage else [])
            return _Stream(events, answers)
        try:
            return Json(response.whole(await _unless_gone(request, _collect(parts))))
        except ApiError:
            raise
        except RuntimeFailure as failure:
            raise unavailable(str(failure)) from failure
        finally:
            answers.cancel()


class _Stream(StreamingResponse):
    """Server-sent events; the requests end with the connection, whoever closes it."""

    def __init__(self, events: AsyncIterator[bytes], answers: Answers) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


async def _events(
    response: wording.Response, parts: AsyncIterator[Piece], last: list[Callable[[], dict[str, Any]]]
) -> AsyncIterator[bytes]:
    try:
        for chunk in response.opening():
            yield _event(chunk)
        async for piece in parts:
            yield _event(response.chunk(piece))
        for closing in last:
            yield _event(closing())
        yield b"data: [DONE]\n\n"
    except RuntimeFailure as failure:
        yield _event(unavailable(str(failure)).body)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode("ascii") + b"\n\n"


async def _collect(parts: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in parts]


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The work's result. Raises ApiError when the client closes the connection before it is there."""
    job, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ApiError(CLIENT_GONE, "the client closed the connection")
        return job.result()
    finally:
        job.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Request, schema: type[Asking]) -> Asking:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415, f"the body must be JSON, sent with the header Content-Type: application/json, not {media_type!r}"
        )
    value = _parse(await _read_bytes(request))
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise from_validation(error) from error


async def _read_bytes(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S), aclosing(request.stream()) as stream:
            async for part in stream:
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(
                        413, f"the body is larger than {MAX_BODY_BYTES} bytes", headers={"Connection": "close"}
                    )
    except TimeoutError as error:
        raise ApiError(408, f"the body did not arrive within {BODY_DEADLINE_S:.0f} s") from error
    except ClientDisconnect as error:
        raise ApiError(CLIENT_GONE, "the client closed the connection") from error
    return bytes(body)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} is not") from error
    except json.JSONDecodeError as error:
        raise ApiError(
            400, f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _guarded(handler: Handler) -> Handler:
    """The handler with every error turned into a response."""

    async def answer(request: Request) -> HttpResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return error_response(error)
        except Exception:
            log.exception("a request to %s failed", request.url.path)
            return error_response(ApiError(500, "the server failed on this request", kind="server_error"))

    return answer


async def _no_route(request: Request, error: Exception) -> HttpResponse:
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return error_response(
            ApiError(405, f"{asked} is not possible; the method is {allowed}", headers=dict(error.headers or {}))
        )
    known = "/v1/completions, /v1/chat/completions, /v1/models, /health, /metrics, /expert-loads"
    return error_response(ApiError(error.status_code, f"{asked}: there is no such path; there are {known}"))
