"""An API server that answers what a test says, for what a real one cannot be made to say."""

import http.server
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from http_servers import http_server

Answers = Mapping[str, tuple[int, Any]]
"""HTTP status and body by path; bodies that are no text are JSON."""


@contextmanager
def api_server(answers: Answers) -> Iterator[str]:
    """An HTTP server that answers as an API server would; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers.get(self.path.partition("?")[0], (404, "404 page not found\n"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http_server(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.write_text(json.dumps(config))
    return path
