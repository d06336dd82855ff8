"""The quickstart: prove a manifest, start its 128 ranks on this machine, ask them for text over HTTP, stop them.

Each command is printed before it runs, so that a reader can type it.
"""

import json
import subprocess
import sys
import time

from serving import CHECKPOINT, MANIFEST, MOE, ROOT, free_port, running, stream, wait_ready

PROMPT = "It is a truth universally acknowledged"


def main() -> None:
    """Plan, run, ask, stop; exit 1 with the reason where a step fails."""
    _say(f"1. Prove the manifest: moe plan -f {MANIFEST}")
    if subprocess.run([MOE, "plan", "-f", MANIFEST], cwd=ROOT, check=False).returncode:
        sys.exit(1)
    port = free_port()
    _say(f"2. Start its ranks: moe run -f {MANIFEST} --checkpoint {CHECKPOINT} --port {port}")
    started = time.monotonic()
    with running(port) as server:
        wait_ready(server, port)
        _say(f"   serving {time.monotonic() - started:.1f} s after the start")
        body = {"model": "quickstart", "prompt": PROMPT, "max_tokens": 48, "temperature": 0, "stream": True}
        _say(
            f"3. Ask: curl -sN localhost:{port}/v1/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
        _print_stream(port, body)
        _say("4. Stop: SIGTERM")
    _say('Nothing is left running. Next: README.md, "Where to read on".')


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)


def _print_stream(port: int, body: dict[str, object]) -> None:
    print(f"\n   {PROMPT}", end="", flush=True)
    started, pieces = time.monotonic(), 0
    for piece in stream(port, body):
        print(piece, end="", flush=True)
        pieces += 1
    print(f"\n\n   {pieces} pieces of text in {time.monotonic() - started:.1f} s, each token computed by 128 ranks")


if __name__ == "__main__":
    main()
