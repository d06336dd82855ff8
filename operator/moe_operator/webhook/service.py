"""The webhook's life in an operator process: get a certificate, listen, tell the API server, and keep all three so."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import NoReturn

from moe_operator.api import Api
from moe_operator.reconcile.compare import within
from moe_operator.webhook.certificates import Bundle
from moe_operator.webhook.configuration import configuration
from moe_operator.webhook.review import review
from moe_operator.webhook.server import Desk, load, serving
from moe_operator.webhook.settings import Settings
from moe_operator.webhook.store import current

LOOK_AGAIN_S = 60.0
"""Between looks at certificate and configuration."""
RETRY_S = 5.0
TURN_DEADLINE_S = 30.0
HEARD_S = 2.0
"""Until every API server has seen a changed configuration."""

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


async def run(
    settings: Settings, api: Api, listening: asyncio.Event, now: Callable[[], datetime] = utc_now
) -> NoReturn:
    """Serve reviews until cancelled; `listening` is set when it begins to.

    Raises OSError where the port is taken; all else is tried again.

    Every operator process runs it, leader or not. Validity is also told in the status, so a webhook that cannot start
    yet is no reason to stop.
    """
    context, turns = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), _Turns()
    while not await turns.succeeds(_obtain(settings, api, context, now)):  # noqa: ASYNC110  # nothing tells when to try again
        await asyncio.sleep(RETRY_S)
    async with serving(settings, context, Desk(partial(review, images=settings.images))):
        listening.set()
        while True:
            done = await turns.succeeds(_renew(settings, api, context, now))
            await asyncio.sleep(LOOK_AGAIN_S if done else RETRY_S)


async def _obtain(settings: Settings, api: Api, context: ssl.SSLContext, now: Callable[[], datetime]) -> None:
    load(context, await current(api, settings, now()))


async def _renew(settings: Settings, api: Api, context: ssl.SSLContext, now: Callable[[], datetime]) -> None:
    """One turn. The API server is told of a new authority before its certificate is served."""
    bundle = await current(api, settings, now())
    if await _configured(settings, api, bundle):
        await asyncio.sleep(HEARD_S)
    load(context, bundle)


async def _configured(settings: Settings, api: Api, bundle: Bundle) -> bool:
    """Whether the configuration had to be written."""
    wanted = configuration(settings, bundle.authorities)
    observed = await api.get(wanted["apiVersion"], wanted["kind"], None, settings.name)
    if observed is not None and within(wanted, observed):
        return False
    await api.apply(wanted)
    return True


class _Turns:
    """Takes turns, and says in one sentence why one did not go through; once, while it stays the same."""

    def __init__(self) -> None:
        self._said = ""

    async def succeeds(self, turn: Awaitable[None]) -> bool:
        """Whether a turn went through."""
        try:
            async with asyncio.timeout(TURN_DEADLINE_S):
                await turn
        except TimeoutError:
            self._say(f"its certificate was not settled within {TURN_DEADLINE_S:g} s")
        except Exception as error:  # noqa: BLE001  # whatever the API server or the folder has, the next turn may be better
            self._say(str(error) or type(error).__name__)
        else:
            self._said = ""
            return True
        return False

    def _say(self, why: str) -> None:
        if why != self._said:
            log.warning("The webhook waits: %s", why)
        self._said = why
