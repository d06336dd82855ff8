"""The quickstart: prove a manifest, start its 128 ranks on this machine, ask them for text over HTTP, stop them.

Each command is printed before it runs, so that a reader can type it.
"""

import json
import os
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
START_DEADLINE_S = 120
PROMPT = "In the beginning"


def main() -> None:
    """Plan, run, ask, stop; exit 1 with the reason where a step fails."""
    os.chdir(ROOT)
    _say(f"1. Prove the manifest: moe plan -f {MANIFEST}")
    if subprocess.run([MOE, "plan", "-f", MANIFEST], check=False).returncode:
        sys.exit(1)
    port = _free_port()
    _say(f"2. Start its ranks: moe run -f {MANIFEST} --checkpoint {CHECKPOINT} --port {port}")
    started = time.monotonic()
    with _running(port) as server:
        _wait_ready(server, port)
        _say(f"   serving {time.monotonic() - started:.1f} s after the start")
        body = {"model": "quickstart", "prompt": PROMPT, "max_tokens": 48, "temperature": 0, "stream": True}
        _say(
            f"3. Ask: curl -sN localhost:{port}/v1/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
        print(f"\n   {PROMPT}", end="", flush=True)
        _print_stream(port, body)
        _say("4. Stop: SIGTERM")
    _say('Nothing is left running. Next: README.md, "Where to read on".')


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(port: int) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen([MOE, "run", "-f", MANIFEST, "--checkpoint", CHECKPOINT, "--port", str(port)])
    try:
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode} before it was ready")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    sys.exit(f"the server was not ready within {START_DEADLINE_S} s")


def _print_stream(port: int, body: dict[str, object]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started, tokens = time.monotonic(), 0
    with urllib.request.urlopen(request, timeout=START_DEADLINE_S) as answer:
        for line in answer:
            event = line.removeprefix(b"data: ").strip()
            if event in (b"", b"[DONE]"):
                continue
            print(json.loads(event)["choices"][0]["text"], end="", flush=True)
            tokens += 1
    print(f"\n\n   {tokens} pieces of text in {time.monotonic() - started:.1f} s, each token computed by 128 ranks")


if __name__ == "__main__":
    main()
