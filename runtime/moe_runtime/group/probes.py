"""What a kubelet asks an agent: GET /agent/live, and GET /agent/ready with the reason where it is not."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from moe_runtime.frontend.listen import Listening

REQUEST_S: Final = 5.0
"""Time that a client has for its request."""


@contextmanager
def answering_probes(listening: Listening, why_not_ready: Callable[[], str]) -> Iterator[None]:
    """Answer while the context lasts."""
    server = _Server(listening, _handler(why_not_ready))
    thread = threading.Thread(target=server.serve_forever, name="probes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listening: Listening, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__((listening.host, listening.port), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening.socket


def _handler(why_not_ready: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Probe(BaseHTTPRequestHandler):
        timeout = REQUEST_S

        def do_GET(self) -> None:  # the base class names it
            if self.path == "/agent/live":
                self._answer(200, "live")
            elif self.path == "/agent/ready":
                reason = why_not_ready()
                self._answer(503 if reason else 200, reason or "ready")
            else:
                self._answer(404, "there are /agent/live and /agent/ready")

        def _answer(self, status: int, text: str) -> None:
            body = text.encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # likewise
            """Probes come every few seconds: nothing is logged."""

    return Probe
