"""Fetch the checkpoint of a plan into a directory: list, choose, download what is missing, verify, mark as done.

Every file is fetched whole, so that its hash can be verified and all slots of a node can share it.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Event, Lock
from typing import Final

from moe_plan.plan import Plan
from moe_runtime.fetch.errors import FetchError, Transient
from moe_runtime.fetch.hugging_face import HuggingFace
from moe_runtime.fetch.s3 import S3
from moe_runtime.fetch.source import INDEX, File, Source, texts, weights
from moe_runtime.fetch.store import Store, telling_why
from moe_runtime.fetch.web import opened, patiently

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Files that are downloaded at once."""
_PIECE_BYTES: Final = 1 << 20
_TELL_S: Final = 10.0


def fetch(plan: Plan, directory: Path, environment: Mapping[str, str]) -> None:
    """Have the plan's checkpoint in a directory. Raises FetchError."""
    source = source_of(plan, environment)
    if source is None:
        log.info("%s: nothing is to be fetched", plan.model.source)
        return
    store = Store(directory, plan.model.source, plan.model.revision)
    with store.locked():
        if store.is_done():
            log.info("%s is in %s already", source.name, directory)
            return
        _Fetching(source, store).run()


def source_of(plan: Plan, environment: Mapping[str, str]) -> Source | None:
    """Where the plan's checkpoint comes from; None where it needs no fetching. Raises FetchError."""
    scheme, _, path = plan.model.source.partition("://")
    if scheme == "hf":
        return HuggingFace(path, plan.model.revision, environment)
    return S3(path, environment) if scheme == "s3" else None


class _Fetching:
    """One checkpoint on its way."""

    def __init__(self, source: Source, store: Store) -> None:
        self._source, self._store = source, store
        self._lock = Lock()
        self._failed = Event()
        self._bytes, self._told = 0, time.monotonic()

    def run(self) -> None:
        files = self._source.files()
        started = time.monotonic()
        small = texts(files)
        self._get(small)
        wanted = [*small, *weights(self._source.name, files, self._index())]
        self._store.check_room(wanted)
        self._get(wanted)
        self._store.mark_done(wanted)
        seconds = time.monotonic() - started
        total = sum(file.size for file in wanted)
        log.info("fetched %s: %d files, %.2f GB, in %.0f s", self._source.name, len(wanted), total / 1e9, seconds)

    def _index(self) -> object:
        path = self._store.directory / INDEX
        try:
            return json.loads(path.read_bytes()) if path.exists() else None
        except (ValueError, RecursionError) as error:
            raise FetchError(f"{self._source.name}: {INDEX} is not JSON: {error}") from None

    def _get(self, files: Sequence[File]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [pool.submit(self._fetch, file) for file in files if not self._store.has(file)]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                self._failed.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch(self, file: File) -> None:
        """Download what is missing of a file, verify it and give it its name; what turns out wrong is fetched anew."""
        for last in (False, True):
            file = patiently(partial(self._download, file), partial(self._store.fetched_bytes, file))
            wrong = self._wrong(file)
            if not wrong:
                self._store.keep(file)
                return
            self._store.part(file).unlink()
            if last:
                raise FetchError(f"{self._source.name}: {file.name} is corrupt: {wrong}")
            log.warning("%s is corrupt: %s; fetching it anew", file.name, wrong)

    def _download(self, file: File) -> File:
        part = self._store.part(file)
        with telling_why(self._store.directory), part.open("ab") as output:
            have = output.tell()
            if have > file.size:
                output.truncate(0)
                have = 0
            if have == file.size:
                return file
            request = self._source.request(file)
            request.add_unredirected_header("Accept-Encoding", "identity")
            if have:
                request.add_header("Range", f"bytes={have}-")
            with opened(request, self._source.refused) as response:
                if have and response.status != 206:
                    output.truncate(0)  # the place does not resume
                self._copy(response, output.write, file)
                if output.tell() < file.size:
                    raise Transient(f"{file.name} broke off after {output.tell()} of {file.size} bytes")
                return self._source.verified(file, {name.lower(): value for name, value in response.getheaders()})

    def _copy(self, response: HTTPResponse, write: Callable[[bytes], object], file: File) -> None:
        """Write what comes. Raises Transient when it stops before its end."""
        while True:
            try:
                piece = response.read(_PIECE_BYTES)
            except (OSError, HTTPException) as error:
                raise Transient(f"{file.name} broke off: {error or type(error).__name__}") from None
            if not piece:
                break
            if self._failed.is_set():
                raise FetchError(f"{self._source.name}: {file.name} was given up since another file failed")
            write(piece)
            self._tell(len(piece))

    def _tell(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            now = time.monotonic()
            if now - self._told > _TELL_S:
                self._told = now
                log.info("%.2f GB so far", self._bytes / 1e9)

    def _wrong(self, file: File) -> str:
        """What is wrong with a downloaded file; empty when nothing is."""
        part = self._store.part(file)
        with telling_why(self._store.directory):
            size = part.stat().st_size
            if size != file.size:
                return f"it has {size} bytes instead of {file.size}"
            running = file.hash()
            if running is None:
                log.warning("%s: the store tells no hash of it; only its size is checked", file.name)
                return ""
            with part.open("rb") as content:
                while piece := content.read(_PIECE_BYTES):
                    running.update(piece)
        found = running.hexdigest()
        return "" if found == file.digest else f"its {file.algorithm} is {found} instead of {file.digest}"
