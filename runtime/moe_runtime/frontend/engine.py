"""The engine drives the ranks: it asks the schedule for a step, has it computed, and hands the tokens to who asked.

It knows every request's prompt and tokens so far. When a rank is lost it starts the ranks anew, and the schedule
computes each request's known tokens again: a lost rank costs a re-prefill, not a request.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal, Protocol

from moe_plan.plan import Plan
from moe_runtime.errors import RankLost, RuntimeFailure, SlotGone
from moe_runtime.frontend.metrics import Measured, Metrics
from moe_runtime.frontend.schedule import Progress, Request, Scheduler, capacity
from moe_runtime.step import Sampled, Sampling, Step

log = logging.getLogger(__name__)

READY_DEADLINE_S = 900.0
"""Longest time in which ranks may load a checkpoint."""
MAX_LOSSES = 5
"""Losses of ranks within LOSS_WINDOW_S that are recovered from."""
LOSS_WINDOW_S = 600.0
BACKOFF_S = 0.5
"""Wait before the ranks are started again; doubled with each loss in the window."""


class LostTooOften(RuntimeFailure):
    """The ranks cannot be kept running; nothing more is served."""

    word = "RanksLost"


class Stopping(RuntimeFailure):
    """The server is shutting down and ends what it could not finish."""


class Ranks(Measured, Protocol):
    """All ranks of the replica, as a process group that is started once and steps together."""

    def wait_ready(self, deadline_s: float) -> None:
        """Return once every rank holds its weights. Raises RuntimeFailure."""

    def run_step(self, step: Step) -> list[Sampled]:
        """Compute a step. Raises RankLost."""

    def check(self) -> None:
        """Raise RankLost if ranks were lost while they had nothing to do."""

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call, from any thread, when ranks are lost or slots are about to leave."""

    def missing_slots(self) -> Sequence[int]:
        """Slots of a replica of several pods that are not there."""

    def leaving_slots(self) -> Sequence[int]:
        """Slots that were told to end, and wait for running requests to finish."""

    def slow_slots(self) -> Mapping[int, float]:
        """Slots that take longer than the others for the same work, and how many times as long."""

    def release(self, slots: Sequence[int]) -> None:
        """Let slots go that are leaving."""

    def stop(self) -> None:
        """End every rank; safe to call twice and from another thread."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that a client wants."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    end_tokens: frozenset[int] = frozenset()


State = Literal["starting", "ready", "recovering", "stopping", "failed"]


@dataclass(frozen=True, slots=True)
class Status:
    """What the engine is doing, for /health."""

    state: State
    detail: str
    missing_slots: tuple[int, ...] = ()
    """Slots that are waited for."""
    slow_slots: tuple[tuple[int, float], ...] = ()
    """Slots that hold the others up, and how many times as long they take for the same work."""


class Answers:
    """The answers that one client waits for, token by token."""

    def __init__(self, engine: "Engine", requests: Sequence[Request]) -> None:
        self.requests = requests
        self._engine = engine
        self._open = {request.number for request in requests}
        self._events: asyncio.Queue[Progress | RuntimeFailure] = asyncio.Queue()

    def put(self, event: Progress | RuntimeFailure) -> None:
        """Add what the engine has to tell."""
        self._events.put_nowait(event)

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Tokens of all answers in the order they come. Raises RuntimeFailure when the engine cannot go on."""
        while self._open:
            event = await self._events.get()
            if isinstance(event, RuntimeFailure):
                raise event
            if event.request.number not in self._open:
                continue
            if event.finish_reason:
                self._open.discard(event.request.number)
            yield event

    def end(self, request: Request) -> None:
        """One answer is complete before the engine knows: a stop string came."""
        self._open.discard(request.number)
        self._engine.end(request, "stop")

    def cancel(self) -> None:
        """The client is gone, or has everything."""
        for request in self.requests:
            self._engine.end(request, "cancelled")


class Engine:
    """Requests in, tokens out. Everything but `Ranks` runs on one event loop."""

    def __init__(self, plan: Plan, ranks: Ranks, renew: Callable[[], Ranks], metrics: Metrics) -> None:
        self.scheduler = Scheduler(capacity(plan))
        self._status = Status("starting", f"{plan.degrees.world} ranks are starting")
        self.became_ready = asyncio.Event()
        self.counting_since = datetime.now(UTC)
        """When the ranks began to count what experts compute."""
        self._ranks = ranks
        self._renew = renew
        self._metrics = metrics
        self._answers: dict[int, Answers] = {}
        self._work = asyncio.Event()
        self._became_idle = asyncio.Event()
        self._became_idle.set()
        self._losses: deque[float] = deque()
        self._requests = 0
        self._failure: RuntimeFailure | None = None
        metrics.observe(self.scheduler, lambda: self._ranks)

    @property
    def status(self) -> Status:
        """What the engine is doing now."""
        shown, missing, leaving = self._status, tuple(self._ranks.missing_slots()), self._ranks.leaving_slots()
        if shown.state == "ready" and leaving:
            return Status("recovering", f"slots {', '.join(map(str, leaving))} are about to end", missing)
        return replace(shown, missing_slots=missing, slow_slots=tuple(self._ranks.slow_slots().items()))

    @property
    def measured(self) -> Measured:
        """What the ranks count now."""
        return self._ranks

    def submit(self, asks: Sequence[Ask]) -> Answers:
        """Queue requests. Raises RuntimeFailure when the engine stops or has failed."""
        if self._failure:
            raise self._failure
        requests = [self._request(ask) for ask in asks]
        answers = Answers(self, requests)
        for request in requests:
            self._answers[request.number] = answers
            self._metrics.arrived(request)
            self.scheduler.add(request)
        self._work.set()
        self._became_idle.clear()
        return answers

    def end(self, request: Request, outcome: Literal["stop", "length", "cancelled", "error"]) -> None:
        """Forget a request; nothing happens when it has ended already."""
        if self._answers.pop(request.number, None) is None:
            return
        self.scheduler.cancel(request)
        self._metrics.ended(request, outcome)
        if not self._answers:
            self._became_idle.set()

    async def run(self) -> None:
        """Serve until cancelled. Raises RuntimeFailure when the ranks cannot be started or kept running."""
        try:
            await self._begin()
            while True:
                await self._run_until_loss()
        except RuntimeFailure as failure:
            self._close("failed", failure)
            self._end_all(failure)
            raise
        finally:
            await asyncio.shield(asyncio.to_thread(self._ranks.stop))

    async def drain(self, grace_s: float) -> None:
        """Take no more requests, and give those at hand so much time to finish."""
        self._close("stopping", Stopping("the server is shutting down"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._became_idle.wait(), grace_s)

    def abandon(self) -> None:
        """End the requests at hand, each with the cause."""
        self._end_all(self._failure or Stopping("the server is shutting down"))

    def _show(self, state: State, detail: str) -> None:
        """Tell what the engine is doing, unless it is on its way out."""
        if self._failure is None:
            self._status = Status(state, detail)

    def _close(self, state: State, failure: RuntimeFailure) -> None:
        """Take no more requests."""
        self._show(state, str(failure))
        self._failure = self._failure or failure

    async def _begin(self) -> None:
        """Start for the first time. Ranks that fail at once are not tried again; slots that are not there may come."""
        try:
            await self._make_ready()
        except SlotGone as gone:
            await self._recover(gone)

    async def _make_ready(self) -> None:
        self._ranks.on_loss(partial(_set_soon, asyncio.get_running_loop(), self._work))
        started = time.monotonic()
        await asyncio.to_thread(self._ranks.wait_ready, READY_DEADLINE_S)
        self.counting_since = datetime.now(UTC)
        log.info("ranks up in %.1f s", time.monotonic() - started)
        self._show("ready", "")
        self.became_ready.set()

    async def _run_until_loss(self) -> None:
        try:
            while True:
                await self._run_step()
        except RankLost as lost:
            await self._recover(lost)

    async def _run_step(self) -> None:
        leaving = self._ranks.leaving_slots()
        self.scheduler.holds = bool(leaving)
        step = self.scheduler.next_step()
        if step is None:
            self._work.clear()
            if leaving:
                self._ranks.release(leaving)
            await self._work.wait()
            await asyncio.to_thread(self._ranks.check)
            return
        started = time.monotonic()
        sampled = await asyncio.to_thread(self._ranks.run_step, step)
        self._metrics.stepped(step, time.monotonic() - started)
        for progress in self.scheduler.complete(sampled):
            self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        number = progress.request.number
        self._metrics.generated(progress.request)
        self._answers[number].put(progress)
        if progress.finish_reason:
            self.end(progress.request, progress.finish_reason)

    async def _recover(self, lost: RuntimeFailure) -> None:
        """Start the ranks anew, until they are up or were lost too often."""
        self.scheduler.restart()
        while True:
            wait = self._next_backoff(lost)
            log.warning("%s; starting the ranks again in %.1f s (%d requests wait)", lost, wait, len(self._answers))
            self._show("recovering", str(lost))
            self._metrics.restarts.inc()
            await asyncio.to_thread(self._ranks.stop)
            await asyncio.sleep(wait)
            try:
                self._ranks = self._renew()
                await self._make_ready()
            except RankLost as again:
                lost = again
            else:
                return

    def _next_backoff(self, lost: RuntimeFailure) -> float:
        now = time.monotonic()
        self._losses.append(now)
        while self._losses[0] < now - LOSS_WINDOW_S:
            self._losses.popleft()
        if len(self._losses) > MAX_LOSSES:
            raise LostTooOften(
                f"ranks were lost {len(self._losses)} times within {LOSS_WINDOW_S / 60:.0f} minutes; the last: {lost}"
            )
        return float(BACKOFF_S * 2 ** (len(self._losses) - 1))

    def _request(self, ask: Ask) -> Request:
        self._requests += 1
        return Request(self._requests, ask.prompt, ask.max_tokens, ask.sampling, ask.end_tokens)

    def _end_all(self, failure: RuntimeFailure) -> None:
        for answers in set(self._answers.values()):
            answers.put(failure)
            for request in answers.requests:
                self.end(request, "error")


def _set_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an event of a loop from another thread; the loop may have ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)
