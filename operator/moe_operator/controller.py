"""Brings deployments to what they should be: reads the cache, lets the pure core decide, and does what it says.

One key at a time per deployment. Whatever goes wrong ends the key's turn; it comes again after a backoff and is decided
anew from what is known then, so nothing of a turn is remembered but what the API server answered.
"""

import asyncio
import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from moe_operator.api import Api, ApiError, RefusedError, UnavailableError
from moe_operator.attached import Attached
from moe_operator.cache import Cache, Change, Key, deployment_of, key_of, version_of
from moe_operator.engines import Images
from moe_operator.leader import LeadershipLostError
from moe_operator.pod_events import PodEvents
from moe_operator.probe import Prober
from moe_operator.queue import WorkQueue
from moe_operator.reconcile.blind import blinded
from moe_operator.reconcile.model import Decision, Event, Object, View, Write
from moe_operator.reconcile.objects import (
    condition,
    finished,
    identity,
    name,
    node_of,
    uid,
)
from moe_operator.resources import Resource
from moe_operator.targets import frontends
from moe_operator.writer import Writer, raise_worst

log = logging.getLogger(__name__)

WORKERS = 4
RESYNC_S = 600.0
LIST_AGAIN_S = 1.0
STRANGER_READ_AGAIN_S = 30.0
TOLD_AFTER_TURNS = 3
"""A write that the API server fails to do is told in the status when so many turns have failed."""
GATHER_S = 0.3
"""News of pods that start come close together: one turn and one status for those of this time."""
DEPLOYMENT = "MoEDeployment"

Decide = Callable[[View], Decision]


@dataclass
class Counters:
    """What the operator did, for /metrics."""

    turns: int = 0
    failed_turns: int = 0
    status_writes: int = 0
    deciding_s: float = 0.0


@dataclass
class Controller:
    """The operator's work while it leads."""

    api: Api
    cache: Cache
    decide: Decide
    served: frozenset[str]
    identity: str
    may_write: Callable[[], bool]
    images: Images = ()
    prober: Prober | None = None
    counters: Counters = field(default_factory=Counters)
    queue: WorkQueue[Key] = field(default_factory=lambda: WorkQueue(random.random))
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: set[Key] = field(default_factory=set)
    """Deployments that are not placed: any room may be for them."""
    _strangers: dict[Key, dict[tuple[str, str], tuple[float, Object]]] = field(default_factory=dict)
    """Objects without our labels that bear the names of children, with the time they were read."""
    _absent: dict[Key, set[tuple[str, str]]] = field(default_factory=dict)
    """Names of children that nothing bears, as the API server said in the turns that have failed since."""
    _relist: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: bool = False
    """Whether all that is watched has been listed once."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "decide"))

    def __post_init__(self) -> None:
        self._writer = Writer(self.api, self.cache, self.may_write, self._changed)
        self._pod_events = PodEvents(self.api)
        self._attached = Attached(self.api.get)

    @property
    def writes(self) -> int:
        """Writes to children so far."""
        return self._writer.made

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self.queue = WorkQueue(random.random)
        await self.relist()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._resync())
                for _ in range(WORKERS):
                    group.create_task(self._work())
        finally:
            if self.prober:
                self.prober.stop()

    def enqueue(self, key: Key, after_s: float = 0.0) -> None:
        """Ask for a turn of a deployment."""
        self.queue.add(key, time.monotonic() + after_s)
        self._woken.set()

    def enqueue_group(self, group: tuple[str, str]) -> None:
        """Ask for a turn of a deployment whose endpoints said something new."""
        self.enqueue(Key(*group))

    def observe(self, row: Resource, event: str | None, obj: Object) -> None:
        """Take note of a watch event; its type is None for what was listed at the start of a watch."""
        store = self.cache[row]
        change = store.remove(key_of(obj), version_of(obj)) if event == "DELETED" else store.put(obj)
        if change is not None:
            self._changed(row.kind, change)

    def watch_listed(self) -> None:
        """Take note that a watch has begun anew with a list: what went meanwhile was not told, so all is listed soon."""
        self._relist.set()

    async def relist(self) -> None:
        """Read everything that is watched, and look at every deployment: what watches missed is seen now."""
        self._relist.clear()
        for row, namespace in self.cache.collections:
            listed = await self._list(row, namespace)
            for change in () if listed is None else self.cache[row].replace(*listed, namespace):
                self._changed(row.kind, change)
        self._seen = True
        for key in list(self.cache.deployments.names()):
            self.enqueue(key)

    async def _list(self, row: Resource, namespace: str | None) -> tuple[list[Object], int] | None:
        """What is there; None where a namespace of several refuses, since the others must not wait for it."""
        while True:
            try:
                return await self.api.list(row, namespace)
            except (ApiError, TimeoutError) as error:
                log.warning("%s cannot be listed: %s", row.plural, error or "no answer in time")
                if namespace is not None and isinstance(error, RefusedError):
                    return None
                if isinstance(error, RefusedError) and not self._seen:
                    await self._tell_blindness(error)
                await asyncio.sleep(max(LIST_AGAIN_S, getattr(error, "retry_after_s", 0.0)))

    async def _tell_blindness(self, error: RefusedError) -> None:
        """Say in every status what may not be listed, while nothing can be decided."""
        for deployment in list(self.cache.deployments.all()):
            status = blinded(deployment, str(error), datetime.now(UTC))
            if status is not None:
                try:
                    await self._writer.write_status(deployment, status)
                except ApiError as refused:
                    log.warning("the status of %s cannot be written: %s", name(deployment), refused)

    async def _resync(self) -> None:
        while True:
            try:
                async with asyncio.timeout(RESYNC_S):
                    await self._relist.wait()
                    await asyncio.sleep(LIST_AGAIN_S)  # several watches begin anew together
            except TimeoutError:
                pass  # it is time
            await self.relist()

    async def _work(self) -> None:
        while True:
            key = self.queue.take(time.monotonic())
            if key is None:
                await self._wait()
            else:
                await self._turn(key)

    async def _wait(self) -> None:
        self._woken.clear()
        due = self.queue.next_due()
        try:
            async with asyncio.timeout(None if due is None else max(0.001, due - time.monotonic())):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _turn(self, key: Key) -> None:
        self.counters.turns += 1
        try:
            again_after_s, wrote = await self._reconcile(key)
        except ApiError as error:
            self.counters.failed_turns += 1
            delay = self.queue.failed(key, time.monotonic(), error.retry_after_s)
            log.warning("%s/%s: %s; again in %.1f s", *key, error, delay)
        except LeadershipLostError:
            self.queue.failed(key, time.monotonic())
        except Exception:
            # one deployment that cannot be decided on must not end the operator for all others
            self.counters.failed_turns += 1
            delay = self.queue.failed(key, time.monotonic())
            log.exception("%s/%s: a defect of the operator; again in %.1f s", *key, delay)
        else:
            ended = self.queue.progressed if wrote else self.queue.done
            ended(key, time.monotonic())
            if again_after_s is not None:
                self.enqueue(key, again_after_s)
        self._woken.set()

    async def _reconcile(self, key: Key) -> tuple[float | None, bool]:
        """One turn; seconds until the next, if one is needed without any event, and whether a child was written."""
        deployment = self.cache.deployments.get(key)
        if deployment is None:
            self._forget(key)
            return None, False
        try:
            view, decision = await self._decide(key, deployment)
            if not await self._carry_out(key, decision):
                return 0.0, False
        except RefusedError as error:
            # the same write would be refused again: give back what half a replica holds, and say why
            await self._give_back(key, deployment, error)
            raise
        except UnavailableError as error:
            if error.status >= 500 and self.queue.failures(key) >= TOLD_AFTER_TURNS:
                await self._tell(key, *await self._decide(key, deployment, failing=str(error)))
            raise
        await self._tell(key, view, decision)
        self._absent.pop(key, None)
        polls = self._attached.read_again_s(key)
        again_after_s = min((after for after in (decision.wake_after_s, polls) if after is not None), default=None)
        return again_after_s, bool(decision.stages)

    async def _give_back(self, key: Key, deployment: Object, error: RefusedError) -> None:
        view, decision = await self._decide(key, deployment, refused=str(error))
        try:
            known = await self._carry_out(key, decision)
        except RefusedError:
            known = True  # what comes before is refused too: it is told all the same
        if known:
            await self._tell(key, view, decision)

    async def _decide(
        self, key: Key, deployment: Object, refused: str | None = None, failing: str | None = None
    ) -> tuple[View, Decision]:
        view = replace(await self._view(key, deployment), refused=refused, failing=failing)
        began = time.monotonic()
        decision = await asyncio.get_running_loop().run_in_executor(self._thread, self.decide, view)
        self.counters.deciding_s += time.monotonic() - began
        return view, decision

    async def _carry_out(self, key: Key, decision: Decision) -> bool:
        """Write the stages; False where names are borne by objects that were not known, so that all is decided anew."""
        for stage in decision.stages:
            if await self._meet_strangers(key, stage):
                return False
            await self._writer.write(stage)
        return True

    async def _tell(self, key: Key, view: View, decision: Decision) -> None:
        """Write the status, then post the events, so that a crash in between repeats none."""
        self._note_placed(key, decision.status or view.deployment.get("status") or {})
        if decision.status is None:
            return
        self.counters.status_writes += 1
        if await self._writer.write_status(view.deployment, decision.status):
            for event in decision.events:
                await self._post(view.deployment, event)

    async def _view(self, key: Key, deployment: Object) -> View:
        """What a decision reads. What must be asked for comes first, so that the cache is read as it is at the end."""
        config, expert_loads = await self._attached.contents(key, deployment)
        targets = frontends(deployment, self.cache.children(key))
        endpoints = await self.prober.endpoints(key, targets) if self.prober else {}
        now = datetime.now(UTC)
        warnings = await self._pod_events.of(key, self.cache.pods.of(key), now)
        read_before = time.monotonic() - STRANGER_READ_AGAIN_S
        strangers = (obj for read_at, obj in self._strangers.get(key, {}).values() if read_at > read_before)
        return View(
            deployment=self.cache.deployments.get(key) or deployment,
            children=(*self.cache.children(key), *strangers),
            nodes=tuple(self.cache.nodes.all()),
            pods=tuple(self.cache.pods.all()),
            config=config,
            expert_loads=expert_loads,
            endpoints=endpoints,
            warnings=warnings,
            served=self.served,
            images=self.images,
            now=now,
        )

    async def _meet_strangers(self, key: Key, stage: Iterable[Write]) -> bool:
        """Whether names that are to be written are borne by objects that were not known: to be decided anew."""
        absent = self._absent.setdefault(key, set())
        unknown = [w.object for w in stage if w.verb == "apply" and w.object["kind"] != "Pod" and not self._known(w)]
        asked = [obj for obj in unknown if identity(obj) not in absent]
        answers = await asyncio.gather(
            *(self._writer.persist(self.api.read, obj) for obj in asked), return_exceptions=True
        )
        absent |= {identity(obj) for obj, answer in zip(asked, answers, strict=True) if answer is None}
        raise_worst(answers)
        found = [answer for answer in answers if isinstance(answer, Mapping)]
        for obj in found:
            if deployment_of(obj) == key:
                self.cache.put(obj)
            else:
                self._strangers.setdefault(key, {})[identity(obj)] = (time.monotonic(), obj)
        return bool(found)

    def _known(self, write: Write) -> bool:
        return self.cache.find(write.object) is not None

    async def _post(self, deployment: Object, event: Event) -> None:
        """Post an event. One that cannot be posted is only logged: the status says the same."""
        at = datetime.now(UTC)
        text = json.dumps([uid(deployment), event.reason, event.message, at.isoformat(timespec="minutes")])
        event_name = f"{name(deployment)[:200]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        try:
            stamp = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
            await self.api.post_event(deployment, event, event_name, stamp, self.identity[:128])
        except ApiError as error:
            log.warning("event %s of %s: %s", event.reason, name(deployment), error)

    def _changed(self, kind: str, change: Change) -> None:
        """Enqueue whom a change concerns."""
        either = change.after or change.before
        assert either is not None
        if kind == DEPLOYMENT:
            self.enqueue(key_of(either))
        elif kind == "Node":
            for key in {*self._on_node(name(either)), *self._waiting}:
                self.enqueue(key)
        else:
            ended = kind == "Pod" and (change.after is None or finished(change.after))
            for obj in change:
                if obj is not None and (owner := deployment_of(obj)) is not None:
                    self.enqueue(owner, 0.0 if ended or kind != "Pod" else GATHER_S)
            for key in self._waiting if ended else ():
                self.enqueue(key)

    def _on_node(self, node: str) -> set[Key]:
        keys = (deployment_of(pod) for pod in self.cache.pods.all() if node_of(pod) == node)
        return {key for key in keys if key is not None}

    def _note_placed(self, key: Key, status: Mapping[str, Any]) -> None:
        placed = condition({"status": status}, "Placed")
        if placed is not None and placed.get("status") == "True":
            self._waiting.discard(key)
        else:
            self._waiting.add(key)

    def _forget(self, key: Key) -> None:
        self._waiting.discard(key)
        self.queue.forget(key)
        self._strangers.pop(key, None)
        self._attached.forget(key)
        self._absent.pop(key, None)
        self._pod_events.forget(key)
        if self.prober:
            self.prober.forget(key)
