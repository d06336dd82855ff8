"""A proxy between the operator and the API server that does what networks and busy servers do.

A fault looks at each request and says what becomes of it; without a fault all is passed on.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from control_plane import ControlPlane

_HOP = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Request:
    """A request of the operator, numbered in the order of arrival."""

    number: int
    method: str
    path: str
    query: dict[str, str]
    authorization: str

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def is_list(self) -> bool:
        collection = self.path.rpartition("/")[2].islower() and "limit" in self.query
        return self.method == "GET" and collection and not self.is_watch

    @property
    def is_write(self) -> bool:
        return self.method not in ("GET", "HEAD") and "/leases" not in self.path


@dataclass(frozen=True)
class Answer:
    """Answer in the API server's place."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class LoseReply:
    """Pass the request on, and close the connection instead of answering."""


class CloseConnection:
    """Close the connection instead of passing the request on."""


class FallSilent:
    """Keep the connection open and say nothing."""


@dataclass(frozen=True)
class EndAfter:
    """Pass so many bytes of the answer on and close the connection."""

    size: int


Fault = Answer | LoseReply | CloseConnection | FallSilent | EndAfter | None


def refusal(status: int, reason: str, **headers: str) -> Answer:
    """An error as the API server words it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
    body["message"] = f"{reason} of the test"
    return Answer(status, {"Content-Type": "application/json", **headers}, json.dumps(body).encode())


@dataclass
class Proxy:
    """A running proxy."""

    plane: ControlPlane
    url: str = ""
    fault: Callable[[Request], Fault] = lambda _: None
    after: Callable[[Request, int], None] = lambda _request, _status: None
    """Told of each answer of the API server before the operator is."""
    requests: list[Request] = field(default_factory=list)

    def writes(self) -> list[Request]:
        return [request for request in self.requests if request.is_write]

    async def handle(self, given: web.Request) -> web.StreamResponse:
        authorization = given.headers.get("Authorization", "")
        request = Request(len(self.requests), given.method, given.path, dict(given.query), authorization)
        self.requests.append(request)
        body = await given.read()
        match fault := self.fault(request):
            case Answer():
                return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
            case CloseConnection():
                return _closed(given)
            case FallSilent():
                await asyncio.sleep(3600)
        headers = {key: value for key, value in given.headers.items() if key.lower() not in _HOP}
        async with self._session.request(
            given.method, self.plane.url + given.path_qs, data=body or None, headers=headers
        ) as answer:
            if isinstance(fault, LoseReply):
                await answer.read()
                return _closed(given)
            if not request.is_watch:
                content = await answer.read()
                self.after(request, answer.status)
                kept = {
                    key: value
                    for key, value in answer.headers.items()
                    if key.lower() not in (*_HOP, "content-encoding")
                }
                return web.Response(status=answer.status, headers=kept, body=content)
            return await self._stream(given, answer, fault.size if isinstance(fault, EndAfter) else None)

    async def _stream(self, given: web.Request, answer: aiohttp.ClientResponse, size: int | None) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
        await response.prepare(given)
        sent = 0
        async for chunk in answer.content.iter_any():
            if given.transport is None or given.transport.is_closing():
                break
            await response.write(chunk if size is None else chunk[: size - sent])
            sent += len(chunk)
            if size is not None and sent >= size:
                return _closed(given)
        return response

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server_tls = _server_tls(self.plane)
        authority = ssl.create_default_context(cafile=str(self.plane.authority.ca_file))
        connector = aiohttp.TCPConnector(ssl=authority, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=True) as self._session:
            application = web.Application(client_max_size=64 * 2**20)
            application.router.add_route("*", "/{tail:.*}", self.handle)
            runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls)
            await site.start()
            self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
            ready.set()
            await self._stop.wait()
            await runner.cleanup()


def _closed(given: web.Request) -> web.Response:
    if given.transport is not None:
        given.transport.abort()
    return web.Response(status=500)


def _server_tls(plane: ControlPlane) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(plane.folder / "apiserver.crt", plane.folder / "apiserver.key")
    return context


@contextmanager
def proxy(plane: ControlPlane) -> Iterator[Proxy]:
    """Run a proxy in a thread until the block is left."""
    running, ready = Proxy(plane), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(ready)), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield running
    finally:
        running.stop()
        thread.join(30)
