"""The only module with kopf handlers: they take note of what watches say, and nothing else.

kopf keeps the watches; it writes nothing here: no finalizers, no annotations, no events, no peering.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import kopf

from moe_operator.access import Access
from moe_operator.api import session
from moe_operator.reconcile.model import Object
from moe_operator.resources import Resource

LIST_DEADLINE_S = 60.0
CONNECT_DEADLINE_S = 5.0
WATCH_S = 300
"""After so long the API server ends a watch, and it begins again where it was."""
FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 20.0
PAGE = 500
WORKER_IDLE_S = 0.5
"""After so long without an event kopf forgets the task that it keeps for an object."""

Observe = Callable[[Resource, str | None, Object], None]


def registry(
    rows: Iterable[Resource], observe: Observe, listed: Callable[[], None], access: Access
) -> kopf.OperatorRegistry:
    """Handlers that pass each event of the watched resources on; `listed` is told when a watch begins with a list."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=access.server, aiohttp_session=session(access, 0, listed))

    for row in rows:
        kopf.on.event(row.group, row.version, row.plural, registry=handlers)(_handler(row, observe))
    return handlers


def settings(rows: Iterable[Resource], silence_s: float) -> kopf.OperatorSettings:
    """How kopf watches: nothing but the given resources; a watch without any sign for `silence_s` begins anew."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.networking.request_timeout = LIST_DEADLINE_S
    chosen.networking.connect_timeout = CONNECT_DEADLINE_S
    chosen.networking.error_backoffs = Backoffs()
    chosen.watching.server_timeout = WATCH_S
    chosen.watching.inactivity_timeout = silence_s
    chosen.watching.chunk_size = PAGE
    chosen.queueing.idle_timeout = WORKER_IDLE_S
    chosen.persistence.diffbase_storage = _NoDiffs()
    chosen.persistence.progress_storage = _NoProgress()
    for row in rows:
        if row.selector:
            chosen.watching.label_selectors[row.group, row.version, row.plural] = row.selector
    return chosen


class Backoffs:
    """Seconds between tries of a watch: without end, since a watch has nothing better to do than to begin again."""

    def __iter__(self) -> Iterator[float]:
        bound = FIRST_RETRY_S
        while True:
            yield bound * (0.5 + random.random() / 2)  # noqa: S311  # spreads load, hides nothing
            bound = min(LONGEST_RETRY_S, bound * 2)


class _NoDiffs(kopf.DiffBaseStorage):
    """Nobody asks what has changed in an object: kopf's copies of it would take most of the time of an event."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """Nothing to store."""


class _NoProgress(kopf.ProgressStorage):
    """There are no handlers whose progress would be kept."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """Nothing to store."""

    def purge(self, **_: Any) -> None:
        """Nothing to purge."""

    def touch(self, **_: Any) -> None:
        """Nothing to touch."""

    def clear(self, *, essence: Any) -> Any:
        return essence


def _handler(row: Resource, observe: Observe) -> Callable[..., Any]:
    async def note(event: Any, **_: Any) -> None:
        observed = {"apiVersion": row.api_version, "kind": row.kind, **event["object"]}
        observe(row, event["type"], observed)

    note.__name__ = f"note_{row.plural}_{row.group}".replace(".", "_")
    return note
