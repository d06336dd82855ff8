"""A webhook as an operator process runs it, beside the tests and asked by the real API server."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from control_plane import ControlPlane

from moe_operator.access import from_kubeconfig
from moe_operator.api import Api
from moe_operator.reconcile.objects import MANAGER
from moe_operator.webhook import Settings, run
from moe_operator.webhook.service import utc_now

DEADLINE_S = 60
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = ("localhost", "127.0.0.1")
"""Names that the certificates of tests bear."""
NAMESPACE = "webhook-home"
TLS_ENDS_S = 0.25
"""For connections cut short to close: https://docs.aiohttp.org/en/stable/client_advanced.html#graceful-shutdown."""


def settings(**changed: Any) -> Settings:
    """Settings of an operator outside the cluster, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chosen = {
        "namespace": NAMESPACE,
        "address": "127.0.0.1",
        "port": port,
        "url": f"https://127.0.0.1:{port}",
        **changed,
    }
    return Settings(**chosen)


@contextmanager
def webhook(plane: ControlPlane, chosen: Settings, now: Callable[[], datetime] = utc_now) -> Iterator[None]:
    """Run it until the block is left; its configuration is removed then."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    task = asyncio.run_coroutine_threadsafe(_serve(plane, chosen, now), loop)
    try:
        yield
    finally:
        task.cancel()
        asyncio.run_coroutine_threadsafe(_settled(), loop).result(DEADLINE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
        plane.kubectl("delete", "validatingwebhookconfiguration", MANAGER, "--ignore-not-found")


async def _serve(plane: ControlPlane, chosen: Settings, now: Callable[[], datetime]) -> None:
    async with Api(from_kubeconfig(plane.kubeconfig)) as api:
        await run(chosen, api, asyncio.Event(), now)


async def _settled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(TLS_ENDS_S)


def until(condition: Callable[[], Any]) -> Any:
    """What a condition gives once it gives anything."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s"
        time.sleep(0.1)


def home(plane: ControlPlane) -> None:
    """The operator's namespace."""
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})


def until_asked(plane: ControlPlane, impossible: dict[str, Any]) -> None:
    """Until the API server asks the webhook: a manifest that only the planner refuses is refused."""
    until(lambda: plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(impossible)).returncode)
