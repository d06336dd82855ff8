"""Carries decisions out: server-side applies and deletes, a few tries each, and the cache keeps what was answered."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from moe_operator.api import Api, ApiError, ConflictError, RefusedError, UnavailableError
from moe_operator.cache import Cache, Change, key_of, version_of
from moe_operator.leader import LeadershipLostError
from moe_operator.reconcile.model import Object, Write
from moe_operator.reconcile.objects import uid
from moe_operator.resources import resource_of

PAUSES_S = (0.1, 0.3, 0.9)
"""Before a call is repeated."""

Answer = TypeVar("Answer")


@dataclass
class Writer:
    """The writes of one operator, made only while it leads."""

    api: Api
    cache: Cache
    may_write: Callable[[], bool]
    changed: Callable[[str, Change], None]
    """Told of what a deletion has taken away, with its kind: the watch, which tells it later, brings no news then."""
    made: int = 0
    """Writes to children so far."""

    async def write(self, stage: Iterable[Write]) -> None:
        """The writes of a stage together. Raises the error of one that failed; the others have been made."""
        raise_worst(await asyncio.gather(*(self._write_one(write) for write in stage), return_exceptions=True))

    async def write_status(self, deployment: Object, status: Mapping[str, Any]) -> bool:
        """Whether the status could be written: not when the deployment is gone, or another of its name is there."""
        if not self.may_write():
            raise LeadershipLostError
        try:
            self.cache.put(await self.api.apply_status(deployment, status))
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False  # the watch will say so
        return True

    async def _write_one(self, write: Write) -> None:
        self.made += 1
        if write.verb == "delete":
            await self._delete(write.object)
            return
        try:
            self.cache.put(await self.persist(self.api.apply, write.object))
        except (ConflictError, RefusedError):
            await self._refresh(write.object)
            raise

    async def persist(self, call: Callable[[Object], Awaitable[Answer]], obj: Object) -> Answer:
        """The answer to a call, made a few times while the API server is busy or away; all calls may be repeated."""
        for pause_s in (*PAUSES_S, None):
            if not self.may_write():
                break
            try:
                return await call(obj)
            except UnavailableError as error:
                if pause_s is None:
                    raise
                await asyncio.sleep(max(error.retry_after_s, pause_s * (0.5 + random.random())))  # noqa: S311
        raise LeadershipLostError

    async def _delete(self, reference: Object) -> None:
        try:
            remains = await self.persist(self.api.delete, reference)
        except ConflictError:
            remains = await self.api.read(reference)
            if remains is not None and uid(remains) == reference["metadata"]["uid"]:
                raise  # it is the one that was meant: the conflict was about something else
        if remains is not None:
            self.cache.put(remains)
            return
        known = self.cache.find(reference)
        if known is not None and uid(known) == reference["metadata"]["uid"]:
            change = self.cache[resource_of(known)].remove(key_of(known), version_of(known))
            if change is not None:
                self.changed(reference["kind"], change)

    async def _refresh(self, wanted: Object) -> None:
        """Read what is there instead of what was expected."""
        found = await self.api.read(wanted)
        if found is not None:
            self.cache.put(found)


def raise_worst(results: Iterable[object]) -> None:
    """Raise the error that speaks for all, if there are any among the results."""
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise max(errors, key=_weight)


def _weight(error: BaseException) -> tuple[bool, bool, float]:
    """Which of several errors speaks for all: a defect, then a refusal, then the longest to wait for."""
    return (
        not isinstance(error, ApiError),
        isinstance(error, RefusedError),
        error.retry_after_s if isinstance(error, ApiError) else 0.0,
    )
