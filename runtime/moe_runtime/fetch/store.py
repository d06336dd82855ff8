"""The directory that a checkpoint is fetched into: one process at a time, parts that can be resumed, a mark when done.

DIR/model-00001-of-00002.safetensors     complete and verified
DIR/.fetch/NAME.part                     on its way
DIR/.fetch/lock                          held by who fetches
DIR/.fetch/done.json                     what was fetched, once all is there
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from moe_runtime.fetch.errors import DiskFull, FetchError
from moe_runtime.fetch.source import File

log = logging.getLogger(__name__)

LOCK_DEADLINE_S: Final = 6 * 3600.0
"""Longest wait for another process that fetches into the same directory."""
_POLL_S: Final = 1.0
_REMEDY: Final = "give the pod a larger volume"


class Store:
    """One checkpoint's directory."""

    def __init__(self, directory: Path, source: str, revision: str) -> None:
        self.directory = directory
        self._what = {"source": source, "revision": revision}
        self._work = directory / ".fetch"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that fetches into the directory. Raises FetchError."""
        with telling_why(self.directory):
            self._work.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._acquire(lock)
            yield
        finally:
            os.close(lock)

    def _acquire(self, lock: int) -> None:
        give_up = time.monotonic() + LOCK_DEADLINE_S
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    hours = LOCK_DEADLINE_S / 3600
                    raise FetchError(
                        f"{self.directory}: another process has fetched into it for {hours:.0f} h"
                    ) from None
                if not told:
                    log.info("another process fetches into %s; waiting for it", self.directory)
                    told = True
                time.sleep(_POLL_S)
            else:
                return

    def is_done(self) -> bool:
        """Whether all was fetched before and is there still. Raises FetchError when something else is there."""
        try:
            done = json.loads((self._work / "done.json").read_bytes())
            files: dict[str, int] = done.pop("files")
        except (OSError, ValueError, KeyError, AttributeError):
            return False
        if done != self._what:
            there = f"{done.get('source')} at {done.get('revision')}"
            raise FetchError(f"{self.directory}: holds {there} already; give each checkpoint a directory of its own")
        return all(self._size(self.directory / name) == size for name, size in files.items())

    def mark_done(self, files: Sequence[File]) -> None:
        """Note that all is there."""
        content = json.dumps({**self._what, "files": {file.name: file.size for file in files}})
        with telling_why(self.directory):
            part = self._work / "done.part"
            part.write_text(content)
            part.replace(self._work / "done.json")

    def has(self, file: File) -> bool:
        """Whether a file is there; it was verified before it got its name."""
        return self._size(self.directory / file.name) == file.size

    def part(self, file: File) -> Path:
        """Where a file is, while it is on its way."""
        return self._work / f"{file.name}.part"

    def fetched_bytes(self, file: File) -> int:
        """Bytes of a file that are there already, while it is on its way."""
        return self._size(self.part(file)) or 0

    def keep(self, file: File) -> None:
        """Give a verified file its name."""
        with telling_why(self.directory):
            self.part(file).replace(self.directory / file.name)

    def check_room(self, files: Sequence[File]) -> None:
        """Raise FetchError when what is still missing does not fit."""
        missing = sum(file.size - self.fetched_bytes(file) for file in files if not self.has(file))
        free = shutil.disk_usage(self.directory).free
        if missing > free:
            raise DiskFull(
                f"{self.directory}: {missing / 1e9:.1f} GB are to be fetched, and {free / 1e9:.1f} GB are free; {_REMEDY}"
            )

    @staticmethod
    def _size(path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None


@contextmanager
def telling_why(directory: Path) -> Iterator[None]:
    """Turn trouble with the disk into a FetchError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{directory}: the disk is full; {_REMEDY} ({_free(directory)} are left)") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise FetchError(
                f"{directory}: no permission to write there ({error.strerror}); it must be writable for user {os.getuid()}"
            ) from None
        raise FetchError(f"{error.filename or directory}: {error.strerror}") from None


def _free(directory: Path) -> str:
    """What is left where a directory is, or would be."""
    there = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    return f"{shutil.disk_usage(there).free / 1e9:.1f} GB"
