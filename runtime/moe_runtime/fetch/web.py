"""HTTP as fetching needs it: every wait ends, what may pass is tried again, and the rest becomes one sentence."""

import http.client
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from moe_runtime.fetch.errors import FetchError, Transient, of_status

log = logging.getLogger(__name__)

SILENCE_S: Final = 30.0
"""Longest time without a byte."""
ATTEMPTS: Final = 5
PAUSE_S: Final = 1.0
"""Before the second attempt; doubled with each."""
MOST_ANSWER_BYTES: Final = 64 << 20
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

Result = TypeVar("Result")


class _Redirects(HTTPRedirectHandler):
    """Follow to another host without the credentials that were meant for the first."""

    def redirect_request(
        self, req: Request, fp: object, code: int, msg: str, headers: object, newurl: str
    ) -> Request | None:
        there = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]  # as typeshed has it
        if there is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            there.remove_header("Authorization")
        return there


_opener = build_opener(_Redirects)


@contextmanager
def opened(request: Request, refused: Mapping[int, str]) -> Iterator[http.client.HTTPResponse]:
    """The response to a request.

    Raises FetchError with the sentence that `refused` has for the status, or with the status; Transient for what may
    pass.
    """
    where = request.full_url.partition("?")[0]
    try:
        response = _opener.open(request, timeout=SILENCE_S)
    except HTTPError as error:
        with error:
            kind = Transient if error.code in _PASSING else of_status(error.code)
            raise kind(refused.get(error.code) or f"{where} answers {error.code} {error.reason}") from None
    except (URLError, OSError, http.client.HTTPException) as error:
        raise Transient(f"{where} cannot be reached: {_reason(error)}") from None
    with response:
        yield response


def read(request: Request, refused: Mapping[int, str]) -> bytes:
    """The whole of a small answer. Raises FetchError."""

    def once() -> bytes:
        with opened(request, refused) as response:
            try:
                body: bytes = response.read(MOST_ANSWER_BYTES + 1)
            except (OSError, http.client.HTTPException) as error:
                raise Transient(f"{request.full_url.partition('?')[0]} broke off: {_reason(error)}") from None
        if len(body) > MOST_ANSWER_BYTES:
            raise FetchError(f"{request.full_url.partition('?')[0]} answers more than {MOST_ANSWER_BYTES} bytes")
        return body

    return patiently(once)


def patiently(attempt: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
    """The result of an attempt, made again where it may pass, as long as there is progress. Raises FetchError."""
    failed, reached = 0, progress()
    while True:
        try:
            return attempt()
        except Transient as trouble:
            before, reached = reached, progress()
            failed = 1 if reached > before else failed + 1
            if failed >= ATTEMPTS:
                raise
            pause = PAUSE_S * 2 ** (failed - 1)
            log.info("%s; trying again in %.0f s", trouble, pause)
            time.sleep(pause)


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return f"no answer for {SILENCE_S:.0f} s" if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__
