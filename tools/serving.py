"""A rehearsal as a child process, for the quickstart and the benchmark: start it, wait for it, stream from it."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOE = Path(sys.executable).with_name("moe")
MANIFEST = "examples/quickstart/moedeployment.yaml"
CHECKPOINT = "examples/quickstart/model"
DEADLINE_S = 180


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(port: int, *, stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`moe run` of the quickstart's manifest on a port; stopped by SIGTERM at the end."""
    command = [MOE, "run", "-f", MANIFEST, "--checkpoint", CHECKPOINT, "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stderr=stderr)
    try:
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Return once /health answers 200; exit with the reason when the server ends first or the deadline passes."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode} before it was ready")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    sys.exit(f"the server was not ready within {DEADLINE_S} s")


def stream(port: int, body: dict[str, object]) -> Iterator[str]:
    """Pieces of text of one streamed completion, as they arrive."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        for line in answer:
            event = line.removeprefix(b"data: ").strip()
            if event.startswith(b"{"):
                choices = json.loads(event)["choices"]
                yield from (choice["text"] for choice in choices)
