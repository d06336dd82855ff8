"""The operator process: watches, leadership, the controller, the webhook, and what Kubernetes and Prometheus ask of it."""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import kopf
from aiohttp import web

from moe_operator import handlers, webhook
from moe_operator.access import Access
from moe_operator.api import Api, ApiError
from moe_operator.cache import Cache
from moe_operator.controller import Controller
from moe_operator.engines import Images
from moe_operator.figures import figures
from moe_operator.leader import Leader
from moe_operator.ownership import owners
from moe_operator.probe import HttpAsk, Prober
from moe_operator.reconcile.decide import decide
from moe_operator.reconcile.warm_up import warm_up
from moe_operator.resources import Resource, resource, watched

log = logging.getLogger(__name__)

SILENT_API_S = 120.0
"""The process is not well when the API server has not answered for so long: a restart reads all credentials anew."""
TRY_AGAIN_S = 2.0
STOP_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one operator process."""

    identity: str
    """Unique among running operators."""
    lease_namespace: str
    lease_name: str
    images: Images
    """Of engines, where a manifest names none."""
    owner: str | None
    """ClusterRole with which the lease and what the webhook needs go."""
    namespaces: tuple[str, ...]
    """Whose deployments are run; those of all when empty."""
    health_port: int | None
    """Of /healthz, /readyz and /metrics; none when None."""
    watch_silence_s: float
    """Seconds after which a watch that says nothing begins anew."""
    webhook: webhook.Settings | None
    """None where there is no webhook."""


class OutdatedError(Exception):
    """The cluster serves other APIs than at the start; a new process watches those."""


async def run(access: Access, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises whatever ends it otherwise."""
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with Api(access) as api, Api(access, connections=2) as lease_api:
        served = await _served(api, stop)
        if stop.is_set():
            return
        await asyncio.to_thread(warm_up)
        ask = HttpAsk()
        cache = Cache(watched(served), settings.namespaces)
        owning = await owners(api, settings.owner)
        leader = Leader(lease_api, settings.lease_namespace, settings.lease_name, settings.identity, owning)
        controller = Controller(api, cache, decide, served, settings.identity, leader.leads, settings.images)
        controller.prober = Prober(ask, controller.enqueue_group)
        started = {"watches": asyncio.Event()}
        parts = [
            leader.run(controller.run),
            _watch(access, settings, controller, stop, started["watches"]),
            _outdated(api, served),
        ]
        if settings.webhook is not None:
            started["webhook"] = asyncio.Event()
            parts.append(webhook.run(replace(settings.webhook, owners=owning), lease_api, started["webhook"]))
        if settings.health_port is not None:
            parts.append(_report(settings.health_port, api, leader, controller, started))
        try:
            await _until(stop, parts)
        finally:
            await ask.close()
            await _release(leader)


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _until(stop: asyncio.Event, parts: list[Any]) -> None:
    """Run all parts until told to stop, or until one ends, which is an error."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    waiter = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiter}:
            task.result()
            if not stop.is_set():
                raise RuntimeError("a part of the operator ended by itself")
    finally:
        for task in (*tasks, waiter):
            task.cancel()
        await asyncio.wait(tasks, timeout=STOP_DEADLINE_S)


async def _served(api: Api, stop: asyncio.Event) -> frozenset[str]:
    """API groups and versions, once the server answers and serves our own resource."""
    wanted = resource("MoEDeployment").api_version
    while not stop.is_set():
        try:
            served = await api.groups()
            if wanted in served:
                return served
            log.warning("the cluster does not serve %s yet; install the CustomResourceDefinition", wanted)
        except ApiError as error:
            log.warning("%s", error)
        await _sleep(stop, TRY_AGAIN_S)
    return frozenset()


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def _watch(
    access: Access, settings: Settings, controller: Controller, stop: asyncio.Event, started: asyncio.Event
) -> None:
    collections = controller.cache.collections
    everywhere = tuple(row for row, namespace in collections if namespace is None)
    within = tuple(dict.fromkeys(row for row, namespace in collections if namespace is not None))
    parts = [part for part in ((everywhere, ()), (within, settings.namespaces)) if part[0]]
    ready = [asyncio.Event() for _ in parts]
    async with asyncio.TaskGroup() as group:
        for (rows, namespaces), flag in zip(parts, ready, strict=True):
            group.create_task(_watching(access, settings, controller, rows, namespaces, flag))
        for flag in ready:
            await flag.wait()
        started.set()
        _stop_on_signals(stop)  # kopf has put its own handlers in place, which would stop nothing but kopf


async def _watching(
    access: Access,
    settings: Settings,
    controller: Controller,
    rows: tuple[Resource, ...],
    namespaces: tuple[str, ...],
    ready: asyncio.Event,
) -> None:
    """kopf's watches of resources in namespaces, or in the whole cluster: an instance of it knows only one of both."""
    await kopf.operator(
        registry=handlers.registry(rows, controller.observe, controller.watch_listed, access),
        settings=handlers.settings(rows, settings.watch_silence_s),
        # given, since kopf would ask for the user's name, and a user of a container has none
        identity=settings.identity,  # type: ignore[arg-type]  # kopf does not export the type
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=True,
        ready_flag=ready,
    )


async def _outdated(api: Api, served: frozenset[str]) -> None:
    """End when the cluster begins or ceases to serve something that is watched."""
    while True:
        await asyncio.sleep(60)
        try:
            now = await api.groups()
        except ApiError as error:
            log.warning("%s", error)
            continue
        if watched(now) != watched(served):
            raise OutdatedError("the cluster serves other APIs than at the start; restart to watch them")


async def _release(leader: Leader) -> None:
    try:
        await leader.release()
    except ApiError as error:
        log.warning("the lease is left to expire: %s", error)


async def _report(
    port: int, api: Api, leader: Leader, controller: Controller, started: Mapping[str, asyncio.Event]
) -> None:
    """Answer /healthz, /readyz and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        silent = time.monotonic() - api.answered_at
        if silent < SILENT_API_S or leader.leads():
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"the API server has not answered for {silent:.0f} s\n")

    async def readyz(_: web.Request) -> web.Response:
        waited_for = [part for part, event in started.items() if not event.is_set()]
        if waited_for:
            return web.Response(status=503, text=f"waits for: {', '.join(waited_for)}\n")
        return web.Response(text="leading\n" if leader.leads() else "standing by\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=_metrics(leader, controller))

    routes: dict[str, Callable[[web.Request], Awaitable[web.Response]]] = {
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": metrics,
    }
    application = web.Application()
    for path, route in routes.items():
        application.router.add_get(path, route)
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _metrics(leader: Leader, controller: Controller) -> str:
    counted = controller.counters
    samples = {
        "moe_operator_leading": ("gauge", int(leader.leads())),
        "moe_operator_deployments": ("gauge", len(controller.cache.deployments)),
        "moe_operator_pods_known": ("gauge", len(controller.cache.pods)),
        "moe_operator_queue_length": ("gauge", len(controller.queue)),
        "moe_operator_turns_total": ("counter", counted.turns),
        "moe_operator_failed_turns_total": ("counter", counted.failed_turns),
        "moe_operator_writes_total": ("counter", controller.writes),
        "moe_operator_status_writes_total": ("counter", counted.status_writes),
        "moe_operator_deciding_seconds_total": ("counter", round(counted.deciding_s, 6)),
    }
    own = "".join(f"# TYPE {name} {kind}\n{name} {value}\n" for name, (kind, value) in samples.items())
    return own + figures(controller.cache.deployments.all())
