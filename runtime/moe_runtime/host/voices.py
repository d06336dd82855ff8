"""What the members of a slot write, whoever makes them write it: read by their parent, and said on with their names.

A member's standard output and error are a pipe, so that the lines of libraries, of NCCL and of a crash carry the
rank's coordinate too. A line may begin with its level as syslog numbers it, `<7>` for debug, as systemd reads it.
"""

import logging
import os
import re
import selectors
import sys
import threading
from typing import Final

from moe_runtime.logs import Speaker

MOST_BYTES: Final = 16384
"""Longest line; what is longer is broken."""
FINISH_S: Final = 5.0
"""Longest wait for the last lines of members that have ended."""
_LEVELS: Final = {3: "error", 4: "warning", 6: "info", 7: "debug"}
_NUMBERS: Final = {"CRITICAL": 3, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
_LEVEL: Final = re.compile(r"<([3467])>")


class Voices:
    """The pipes of a slot's members, read by one thread from `listen` on."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._rests: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self._read, name="voices", daemon=True)

    def add(self, speaker: Speaker, pipe: int) -> None:
        """Take over the reading end of a member's pipe."""
        self._selector.register(pipe, selectors.EVENT_READ, speaker)

    def listen(self) -> None:
        """Begin to read: after the last fork."""
        self._thread.start()

    def finish(self) -> None:
        """Return when all that members have said is said on; they have ended."""
        self._thread.join(FINISH_S)

    def _read(self) -> None:
        while self._selector.get_map():
            for key, _ in self._selector.select():
                self._take(key.fd, key.data)

    def _take(self, pipe: int, speaker: Speaker) -> None:
        more = os.read(pipe, MOST_BYTES)
        *lines, rest = (self._rests.pop(speaker.name, b"") + more).split(b"\n")
        if more and len(rest) < MOST_BYTES:
            self._rests[speaker.name] = rest
        elif rest:
            lines.append(rest)
        if not more:
            self._selector.unregister(pipe)
            os.close(pipe)
        say(speaker, [line.decode(errors="replace") for line in lines])


def speak_into(pipe: int) -> None:
    """Make a pipe this process's standard output and error, and have what it logs carry its level."""
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.close(pipe)
    handler = logging.StreamHandler()
    handler.setFormatter(_Numbered())
    logging.basicConfig(level=logging.getLogger().level, handlers=[handler], force=True)


def say(speaker: Speaker, lines: list[str]) -> None:
    """Write lines to stderr, with who says them."""
    for line in lines:
        found = _LEVEL.match(line)
        text, level = (line[found.end() :], _LEVELS[int(found[1])]) if found else (line, "info")
        sys.stderr.write(speaker.line(text, level) + "\n")


class _Numbered(logging.Formatter):
    """Each record on one line, after its level."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_NUMBERS[record.levelname]}>{super().format(record)}".replace("\n", " ")
