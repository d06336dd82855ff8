"""Asks the endpoints of replicas whether they serve, and what they measure: /health and /metrics of their frontends.

A replica that does not serve is asked every second, one that does every twenty. Slots that a frontend misses are asked
why, where they can be reached. Measured figures are passed on when they
have moved by a tenth, since each makes a status write.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import aiohttp

from moe_operator.engines import Metrics, engine
from moe_operator.health import detail, missing_slots, slow_slots
from moe_operator.manifests import agent_port
from moe_operator.reconcile.model import Absent, Endpoint
from moe_operator.samples import Samples, measure, parse_samples, steady
from moe_plan.bundled import ENGINE as BUNDLED

DEADLINE_S = 3.0
ASK_AGAIN_S = 1.0
ASK_SERVING_AGAIN_S = 20.0
_SAID = 300
_ASKED = 2
"""Missing slots that are asked why at a time."""


@dataclass(frozen=True, slots=True)
class Target:
    """The frontend of one replica."""

    uid: str
    """Of its pod: another pod is another target."""
    host: str
    port: int
    engine: str = BUNDLED
    """What answers there."""
    others: Mapping[int, str] = field(default_factory=dict, compare=False)
    """Address of each other slot that runs."""

    @property
    def metrics(self) -> Metrics:
        """Where its figures are, and their names."""
        return engine(self.engine).metrics

    @property
    def url(self) -> str:
        """Base of its HTTP routes."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


Ask = Callable[[Target, str], Awaitable[tuple[int, str]]]
"""GET of a path: HTTP status and text. Raises OSError or TimeoutError where no answer comes."""


@dataclass
class Watched:
    """What is known of one target."""

    target: Target
    endpoint: Endpoint | None = None
    samples: Samples = field(default_factory=dict)
    sampled_at: float = 0.0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first answer, or none in time, is known."""


class Prober:
    """Keeps asking the targets it was given; `changed` is told the group whose answers became others."""

    def __init__(self, ask: Ask, changed: Callable[[tuple[str, str]], None]) -> None:
        self._ask = ask
        self._changed = changed
        self._watched: dict[tuple[tuple[str, str], int], Watched] = {}
        self._tasks: dict[tuple[tuple[str, str], int], asyncio.Task[None]] = {}

    async def endpoints(self, group: tuple[str, str], targets: Mapping[int, Target]) -> dict[int, Endpoint]:
        """What the targets of a group said; from now on these are asked, and no others of the group.

        New targets are waited for until they have answered once, or for the deadline: else a new operator would take
        all that serves for silent.
        """
        self._follow(group, targets)
        waits = [self._watched[group, index].asked.wait() for index in targets]
        try:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*waits)
        except TimeoutError:
            pass  # those that are not known yet are left out
        found = {index: self._watched[group, index].endpoint for index in targets if (group, index) in self._watched}
        return {index: endpoint for index, endpoint in found.items() if endpoint is not None}

    def forget(self, group: tuple[str, str]) -> None:
        """Ask no targets of a group any more."""
        self._follow(group, {})

    def _follow(self, group: tuple[str, str], targets: Mapping[int, Target]) -> None:
        for known in [key for key in self._watched if key[0] == group]:
            if self._watched[known].target != targets.get(known[1]):
                self._stop(known)
        for index, target in targets.items():
            if (group, index) in self._watched:
                self._watched[group, index].target = target
            else:
                self._watched[group, index] = Watched(target)
                self._tasks[group, index] = asyncio.create_task(self._keep_asking((group, index)))

    def stop(self) -> None:
        """Ask nothing any more."""
        for key in list(self._watched):
            self._stop(key)

    def _stop(self, key: tuple[tuple[str, str], int]) -> None:
        del self._watched[key]
        self._tasks.pop(key).cancel()

    async def _keep_asking(self, key: tuple[tuple[str, str], int]) -> None:
        watched = self._watched[key]
        while True:
            endpoint = await self._endpoint(watched)
            if endpoint != watched.endpoint:
                watched.endpoint = endpoint
                self._changed(key[0])
            watched.asked.set()
            await asyncio.sleep(ASK_SERVING_AGAIN_S if endpoint.answered else ASK_AGAIN_S)

    async def _endpoint(self, watched: Watched) -> Endpoint:
        try:
            status, text = await self._ask(watched.target, "/health")
            if status != 200:
                return await self._silent(watched.target, status, text)
            _, figures = await self._ask(watched.target, watched.target.metrics.path)
        except TimeoutError:
            return Endpoint(answered=False, said=f"no answer within {DEADLINE_S:g} s")
        except OSError as error:
            return Endpoint(answered=False, said=(str(error) or type(error).__name__)[:_SAID])
        now, samples = time.monotonic(), parse_samples(figures)
        before, since = watched.samples, now - watched.sampled_at
        watched.samples, watched.sampled_at = samples, now
        known = watched.endpoint or Endpoint(answered=True)
        found = measure(known, before, samples, since, watched.target.metrics)
        return steady(known, replace(found, slow=slow_slots(text)))

    async def _silent(self, target: Target, status: int, text: str) -> Endpoint:
        """A frontend that does not serve, with what the slots say that it misses."""
        missing = missing_slots(text)
        asked = missing[:_ASKED]
        said = dict(zip(asked, await asyncio.gather(*(self._why(target, slot) for slot in asked)), strict=True))
        absent = tuple(Absent(slot, said.get(slot, "")) for slot in missing)
        return Endpoint(answered=False, said=f"HTTP {status}: {detail(text)[:_SAID]}".rstrip(": "), absent=absent)

    async def _why(self, target: Target, slot: int) -> str:
        """Why a slot is not ready, as it says; empty where it cannot be asked."""
        host = target.others.get(slot)
        if host is None:
            return ""
        agent = Target(target.uid, host, agent_port(target.port), target.engine)
        try:
            _, text = await self._ask(agent, "/agent/ready")
        except (OSError, TimeoutError):
            return ""
        return text.strip()[:_SAID]


class HttpAsk:
    """GET over HTTP, each with the deadline."""

    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64))

    async def __call__(self, target: Target, path: str) -> tuple[int, str]:
        try:
            async with self._session.get(target.url + path, allow_redirects=False) as answer:
                return answer.status, await answer.text(errors="replace")
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
