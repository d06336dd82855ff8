"""`moe loads` saves what endpoints have measured, and says in a sentence why it cannot."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from http_servers import http_server
from moe_command import Moe

from moe_plan.loads import LOADS_VERSION, parse_loads

TRACE: dict[str, Any] = {
    "version": LOADS_VERSION,
    "model": "tiny",
    "since": "2026-11-21T10:00:00Z",
    "tokens": 20,
    "layers": {"0": [30, 10], "2": [20, 20]},
}


@contextmanager
def endpoint(body: str, status: int = 200) -> Iterator[str]:
    """The address of a server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/expert-loads" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_loads_are_saved_and_summed_up_in_a_line(moe: Moe, tmp_path: Path) -> None:
    file = tmp_path / "loads.json"
    with endpoint(json.dumps(TRACE)) as url:
        done = moe("loads", "--url", url + "/", "-o", str(file))
    assert done.stdout == f"{file}: 20 tokens since 2026-11-21 10:00 UTC, 2 MoE layers\n"
    assert parse_loads(file.read_text(), "it") == parse_loads(json.dumps(TRACE), "it")
    assert '    "0": [30, 10],\n' in file.read_text(), "a line for each layer"


def test_replicas_are_added_up(moe: Moe) -> None:
    with endpoint(json.dumps(TRACE)) as one, endpoint(json.dumps(TRACE | {"tokens": 5})) as other:
        done = moe("loads", "--url", one, "--url", other)
    assert json.loads(done.stdout)["tokens"] == 25
    assert json.loads(done.stdout)["layers"] == {"0": [60, 20], "2": [40, 40]}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("no such path", 404, "answers 404 Not Found; is it the bundled runtime, and of this version?"),
        ("starting", 503, "answers 503 Service Unavailable; is it ready?"),
        (json.dumps(TRACE)[:-9], 200, "is not whole JSON"),
        (json.dumps(TRACE | {"tokens": -1}), 200, "tokens: must be a whole number of tokens, 0 or more"),
        (json.dumps(TRACE | {"tokens": 0}), 200, "nothing has been computed yet; serve requests for a while first"),
    ],
    ids=["other server", "not ready", "cut short", "negative", "idle"],
)
def test_what_an_endpoint_does_not_tell_is_said(moe: Moe, body: str, status: int, said: str) -> None:
    with endpoint(body, status) as url:
        done = moe("loads", "--url", url)
    assert done.returncode == 1
    assert said in done.stderr
    assert url in done.stderr
    assert "Traceback" not in done.stderr


def test_an_endpoint_that_is_not_there_is_named(moe: Moe, tmp_path: Path) -> None:
    done = moe("loads", "--url", "http://127.0.0.1:9", "-o", str(tmp_path / "loads.json"))
    assert done.returncode == 1
    assert "http://127.0.0.1:9 does not answer: " in done.stderr
    assert not (tmp_path / "loads.json").exists()


def test_replicas_of_two_models_are_not_added(moe: Moe) -> None:
    with endpoint(json.dumps(TRACE)) as one, endpoint(json.dumps(TRACE | {"model": "other"})) as other:
        done = moe("loads", "--url", one, "--url", other)
    assert done.returncode == 1
    assert "loads of tiny and of other cannot be added: they are of two models" in done.stderr


def test_what_is_no_url_is_wrong_use(moe: Moe) -> None:
    done = moe("loads", "--url", "127.0.0.1:8000")
    assert done.returncode == 2
    assert "write http://HOST:PORT" in done.stderr
    assert moe("loads").returncode == 2


def test_commands_refuse_loads_that_cannot_be_read(moe: Moe, tmp_path: Path) -> None:
    file = tmp_path / "loads.json"
    file.write_text(json.dumps(TRACE)[:30])
    for command in (["plan"], ["search"], ["report", "-d", str(tmp_path / "report")], ["run"]):
        done = moe(*command, "-f", "examples/quickstart/moedeployment.yaml", "--expert-loads", str(file))
        assert done.returncode == 1, command
        assert done.stderr.startswith(f"error: {file}: is not whole JSON"), command
