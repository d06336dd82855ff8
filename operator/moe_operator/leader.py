"""One operator of several leads: it holds a Lease, and stops writing before another could take it.

Clocks of machines are never compared: a candidate takes a lease over once it has itself seen it unchanged for as long
as its holder said to hold it (as client-go's leader election does).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moe_operator.api import Api, ApiError, ConflictError
from moe_operator.ownership import Owners, owned
from moe_operator.reconcile.model import Object
from moe_operator.resources import resource

log = logging.getLogger(__name__)

LEASE_S = 15
RENEW_EVERY_S = 4.0
TRY_EVERY_S = 2.0
_LEASE = resource("Lease")


class LeadershipLostError(Exception):
    """Another operator may lead by now."""


@dataclass
class Leader:
    """A candidate for the lease `name` in `namespace`."""

    api: Api
    namespace: str
    name: str
    identity: str
    """Unique to a running process; a successor under the same identity takes over at once."""
    owners: Owners = ()
    """With which the lease goes."""
    _held_until: float = float("-inf")
    _seen: tuple[str, float] = field(default=("", float("-inf")))
    """Version of the lease when last seen to change, and when that was."""

    def leads(self) -> bool:
        """Whether no other operator can lead now."""
        return time.monotonic() < self._held_until

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Lead whenever the lease can be had: `lead` runs while it is held, and is cancelled when it is not."""
        while True:
            await self._acquire()
            log.info("leading as %s", self.identity)
            work = asyncio.ensure_future(lead())
            renewal = asyncio.ensure_future(self._renew())
            try:
                await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (work, renewal):
                    task.cancel()
                await asyncio.gather(work, renewal, return_exceptions=True)
            if not work.cancelled() and (error := work.exception()) is not None:
                raise error
            log.warning("the lease is lost: waiting for it")

    async def release(self) -> None:
        """Give the lease up, so that a successor need not wait for its end."""
        if self.leads():
            self._held_until = float("-inf")
            lease = await self.api.get(_LEASE.api_version, _LEASE.kind, self.namespace, self.name)
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                released = {**lease, "spec": {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}
                await self.api.update(released)

    async def _acquire(self) -> None:
        while not await self._try():  # noqa: ASYNC110  # nothing tells when the lease is free
            await asyncio.sleep(TRY_EVERY_S)

    async def _renew(self) -> None:
        while self.leads():  # noqa: ASYNC110  # it is time that ends a lease
            await asyncio.sleep(RENEW_EVERY_S if await self._try() else TRY_EVERY_S / 2)

    async def _try(self) -> bool:
        """Take or renew the lease; whether it is held then."""
        asked = time.monotonic()
        try:
            async with asyncio.timeout(LEASE_S / 3):
                lease = await self.api.get(_LEASE.api_version, _LEASE.kind, self.namespace, self.name)
                if lease is not None and not self._may_take(lease, asked):
                    return False
                await self._write(lease)
        except ConflictError:
            return False
        except (ApiError, TimeoutError) as error:
            log.warning("the lease cannot be written: %s", error or "no answer in time")
            return False
        self._held_until = asked + LEASE_S
        return True

    def _may_take(self, lease: Object, now: float) -> bool:
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") in (None, "", self.identity):
            return True
        version = str(lease["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = (version, now)
        return now - self._seen[1] > float(spec.get("leaseDurationSeconds") or LEASE_S)

    async def _write(self, lease: Object | None) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        before: dict[str, Any] = dict((lease or {}).get("spec") or {})
        same = before.get("holderIdentity") == self.identity
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_S,
            "acquireTime": before.get("acquireTime", now) if same else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if same else 1),
        }
        if lease is None:
            metadata = owned({"name": self.name, "namespace": self.namespace}, self.owners)
            body = {"apiVersion": _LEASE.api_version, "kind": _LEASE.kind, "metadata": metadata, "spec": spec}
            await self.api.create(body)
        else:
            await self.api.update({**lease, "metadata": owned(lease["metadata"], self.owners), "spec": spec})
