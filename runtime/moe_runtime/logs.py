"""How processes of the runtime say things: a line each, as text or as JSON, with who speaks.

Text is the message alone, of a rank `[pp0 ep3 tp1 rank7] message`, of a gateway `[gateway slot3] message`. JSON is one
object a line, with time, level, message and the same facts as fields. MOE_LOG_FORMAT and MOE_LOG_LEVEL choose.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from moe_plan.layout import Coordinate

FORMAT: Final = "MOE_LOG_FORMAT"
FORMATS: Final = ("text", "json")
LEVEL: Final = "MOE_LOG_LEVEL"
LEVELS: Final = ("info", "debug", "warning")
"""The first is the default, of formats too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who says a line."""

    name: str = ""
    """Empty for the frontend and agents, who speak for the pod."""
    fields: Mapping[str, int | str] = field(default_factory=dict)

    @classmethod
    def pod(cls, environment: Mapping[str, str]) -> "Speaker":
        """The pod itself, by its slot where it has one."""
        slot = environment.get("LWS_WORKER_INDEX", "")
        return cls("", {"slot": int(slot)} if slot.isdecimal() else {})

    @classmethod
    def rank(cls, slot: int, rank: int, here: Coordinate) -> "Speaker":
        """A rank."""
        name = f"pp{here.pp} ep{here.ep} tp{here.tp} rank{rank}"
        return cls(name, {"slot": slot, "pp": here.pp, "ep": here.ep, "tp": here.tp, "rank": rank})

    @classmethod
    def gateway(cls, slot: int) -> "Speaker":
        """A slot's gateway."""
        return cls(f"gateway slot{slot}", {"slot": slot, "part": "gateway"})

    def text(self, message: str) -> str:
        """A line of text."""
        return f"[{self.name}] {message}" if self.name else message

    def json(self, message: str, level: str, when: float) -> str:
        """A line of JSON; `when` in seconds since the epoch."""
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when))}.{int(when * 1000) % 1000:03d}Z"
        return json.dumps({"time": stamp, "level": level, "message": message, **self.fields}, ensure_ascii=False)

    def line(self, message: str, level: str = "info", when: float | None = None) -> str:
        """A line in the form that the environment asks for."""
        if _chosen(FORMAT, FORMATS) == "text":
            return self.text(message)
        return self.json(message, level, time.time() if when is None else when)


class _Lines(logging.Formatter):
    """Each record on one line; of an exception, its text and where it was raised."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__("%(message)s")
        self._speaker = speaker

    def formatException(self, ei: Any) -> str:  # noqa: N802  # the base class names it
        _, error, trace = ei
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace else ""
        return f"{type(error).__name__}: {error}{where}"

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record).replace("\n", " ")
        return self._speaker.line(message, record.levelname.lower(), record.created)


def log_lines(speaker: Speaker) -> None:
    """Have this process log lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(speaker))
    logging.basicConfig(level=_chosen(LEVEL, LEVELS).upper(), handlers=[handler], force=True)
    for name, choices in ((LEVEL, LEVELS), (FORMAT, FORMATS)):
        if os.environ.get(name, "") not in ("", *choices):
            log.warning(
                "%s is none of %s, but %r; it is taken for %s", name, ", ".join(choices), os.environ[name], choices[0]
            )


def _chosen(name: str, choices: tuple[str, ...]) -> str:
    """What the environment asks for; the first choice where it asks for nothing that there is."""
    value = os.environ.get(name)
    return value if value in choices else choices[0]
