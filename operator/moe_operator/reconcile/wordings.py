"""What others say when something is wrong, told apart by the table in wordings.toml: a reason of our own, and a remedy."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Kind = Literal["waiting", "event", "unbound", "ended", "failed", "refused"]
LONGEST = 400
"""Characters of somebody's words that are passed on."""
LINES = 3
"""Last lines of a container's message that are passed on."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One row of the table."""

    kind: Kind
    pattern: re.Pattern[str]
    reason: str
    remedy: str
    passes: bool = False
    """Whether it may pass by itself, so that nobody must act yet."""

    def advise(self, sentence: str) -> str:
        """The sentence with what to do."""
        return f"{sentence}; {self.remedy}" if self.remedy else sentence


def recognise(kind: Kind, text: str) -> Wording | None:
    """The first row of a kind that matches; None only for kinds that do not end with one for everything."""
    flat = " ".join(text.split())
    return next((row for row in wordings() if row.kind == kind and row.pattern.search(flat)), None)


def understand(kind: Kind, text: str) -> Wording:
    """The first row that matches, of a kind that ends with one for everything."""
    found = recognise(kind, text)
    assert found is not None, f"{kind} has no row for everything"
    return found


def reasons_of(kind: Kind) -> frozenset[str]:
    """All reasons of a kind."""
    return frozenset(row.reason for row in wordings() if row.kind == kind)


@cache
def wordings() -> tuple[Wording, ...]:
    """All rows, in order."""
    table = tomllib.loads(files(__package__).joinpath("wordings.toml").read_text(encoding="utf-8"))
    return tuple(Wording(**{**row, "pattern": re.compile(row["pattern"])}) for row in table["wording"])


def last_line(text: str) -> str:
    """The last line that says anything, shortened."""
    return last_lines(text, 1)


def last_lines(text: str, count: int = LINES) -> str:
    """The last lines that say anything, on one line and shortened at their beginning."""
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    joined = " | ".join(lines[-count:])
    if len(joined) <= LONGEST:
        return joined
    return f"{joined[: LONGEST - 1]}…" if count == 1 or len(lines) == 1 else f"…{joined[1 - LONGEST :]}"
