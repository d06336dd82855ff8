"""The HTTPS server that the API server posts reviews to. Every review is answered within a deadline."""

import asyncio
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from moe_operator.webhook.certificates import Bundle
from moe_operator.webhook.configuration import TIMEOUT_S
from moe_operator.webhook.review import Answer, ReviewError, review, unreviewed
from moe_operator.webhook.settings import PATH, Settings
from moe_operator.webhook.store import CertificateError

DEADLINE_S = TIMEOUT_S - 2.0
"""For a review; the API server must still hear that it was not finished."""
LARGEST_REVIEW = 8 * 2**20
"""Bytes. The API server takes objects of up to 3 MiB, and a review of an update has two."""
WORKERS = 4
"""Reviews judged at the same time, so that a search of seconds does not hold up the others."""
MOST_WAITING = 64

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(settings: Settings, context: ssl.SSLContext, desk: "Desk") -> AsyncIterator[None]:
    """Have the desk answer reviews until the block is left. Raises OSError where the port is taken."""
    application = web.Application(client_max_size=LARGEST_REVIEW)
    application.router.add_post(PATH, desk.answer)
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.address, settings.port, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()
        desk.close()


def load(context: ssl.SSLContext, bundle: Bundle) -> None:
    """Serve new connections with another certificate. Raises CertificateError where it is none."""
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads keys from files only
        certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        certificate.write_bytes(bundle.certificate)
        key.touch(mode=0o600)
        key.write_bytes(bundle.key)
        try:
            context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise CertificateError(f"tls.crt and tls.key are no certificate and its key: {error.reason}") from error


class Desk:
    """Takes questions and has them judged in threads, since a search for degrees takes seconds."""

    def __init__(self, judge: Callable[[Any], Answer] = review, deadline_s: float = DEADLINE_S) -> None:
        self._judge, self._deadline_s = judge, deadline_s
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="review")
        self._waiting = 0

    async def answer(self, request: web.Request) -> web.Response:
        """The response to one POST: 200 with an AdmissionReview, or 400 for what is none."""
        try:
            async with asyncio.timeout(self._deadline_s):
                question = json.loads(await request.read())
            return web.json_response(await self._judged(question))
        except (ReviewError, ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"{error}\n")
        except TimeoutError:
            return web.Response(status=408, text="the review did not arrive in time\n")

    def close(self) -> None:
        """Take no more questions."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _judged(self, question: Any) -> Answer:
        if self._waiting >= MOST_WAITING:
            return unreviewed(question, "too many at once")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._judge, question)
        except TimeoutError:
            return unreviewed(question, f"no verdict within {self._deadline_s:g} s")
        except ReviewError:
            raise
        except Exception:  # a fault of ours must not keep anybody from deploying
            log.exception("A review failed")
            return unreviewed(question, "the operator's webhook failed; its log says why")
        finally:
            self._waiting -= 1
