"""The server's life: answer while the ranks run, until told to stop or they cannot be kept running."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from moe_plan.plan import Plan
from moe_runtime.frontend.announce import paste_line, process_age_s
from moe_runtime.frontend.api import make_app
from moe_runtime.frontend.chat import load_chat_template
from moe_runtime.frontend.engine import Engine, Ranks
from moe_runtime.frontend.listen import Listening
from moe_runtime.frontend.metrics import Metrics
from moe_runtime.frontend.service import Service
from moe_runtime.frontend.signals import Signals
from moe_runtime.frontend.tokenizer import end_tokens, load_tokenizer

log = logging.getLogger(__name__)

API_KEY = "MOE_API_KEY"
"""Environment variable that holds the key which requests must bear."""
GRACE_S = 10.0
"""Time that running requests have to finish after the first signal."""
LINGER_S = 2.0
"""Time for which a failed server still tells its clients why."""
CLOSE_S = 3
"""Time that connections have to close."""


def serve(
    plan: Plan,
    checkpoint: Path | None,
    listening: Listening,
    ranks: Ranks,
    renew: Callable[[], Ranks],
    signals: Signals,
) -> None:
    """Serve until SIGINT or SIGTERM. Raises RuntimeFailure when the ranks cannot be started or kept running."""
    asyncio.run(_serve(plan, checkpoint, listening, ranks, renew, signals))


async def _serve(
    plan: Plan,
    checkpoint: Path | None,
    listening: Listening,
    ranks: Ranks,
    renew: Callable[[], Ranks],
    signals: Signals,
) -> None:
    metrics = Metrics()
    engine = Engine(plan, ranks, renew, metrics)
    service = _service(plan, checkpoint, engine, metrics)
    http = _Http(_config(service))
    first, second = signals.events()
    serving = asyncio.create_task(http.serve([listening.socket]))
    running = asyncio.create_task(engine.run())
    try:
        await _until(running, first, engine.became_ready)
        if engine.became_ready.is_set():
            _announce(service, listening)
            await _until(running, first)
        await _wind_down(engine, running, second)
    finally:
        running.cancel()
        await asyncio.wait({running})
        http.should_exit = True
        await serving
    if not running.cancelled():
        running.result()


async def _wind_down(engine: Engine, running: asyncio.Task[None], second: asyncio.Event) -> None:
    """End what is in flight, or leave a moment to say why it ended; a second signal cuts it short."""
    if running.done():
        await _until(asyncio.create_task(asyncio.sleep(LINGER_S if engine.became_ready.is_set() else 0)), second)
        return
    log.info("stopping: running requests have %.0f s to finish; again to stop at once", GRACE_S)
    await _until(asyncio.create_task(engine.drain(GRACE_S)), second)
    engine.abandon()


async def _until(task: asyncio.Task[None], *events: asyncio.Event) -> None:
    """Return when the task is done or any event is set."""
    waits = {asyncio.create_task(event.wait()) for event in events}
    try:
        await asyncio.wait({task, *waits}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class _Http(uvicorn.Server):
    """Uvicorn without its signal handlers: this module has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _config(service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        make_app(service),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_S,
    )


def _service(plan: Plan, checkpoint: Path | None, engine: Engine, metrics: Metrics) -> Service:
    tokenizer, template = load_tokenizer(checkpoint), load_chat_template(checkpoint)
    if tokenizer is None:
        log.info("no tokenizer.json: prompts are lists of token ids")
    elif template is None:
        log.info("no chat template: /v1/chat/completions is off")
    ends = end_tokens(checkpoint, plan.model.config)
    key = os.environ.get(API_KEY) or None
    return Service(plan, engine, tokenizer, template, ends, metrics, key, int(time.time()))


def _announce(service: Service, listening: Listening) -> None:
    prompt = json.dumps("Once upon a time" if service.tokenizer else [1, 2, 3])
    log.info("ready: %s in %.1f s", listening.url, process_age_s())
    log.info("%s", paste_line(listening.url, prompt, service.api_key))
