"""A Markdown document as numbered lines, each with the headings and bullets it stands under."""

import re
from dataclasses import dataclass

MAX_LINE = 1000

_HEADING = re.compile(r"^(#{1,6})\s+(\S.*)$")
_BULLET = re.compile(r"^(\s*)[-*+]\s+(\S.*)$")
_LINE_END = re.compile(r"\r\n|\r|\n")
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `path` joins the headings above it, the outermost first, and the bullet that encloses it."""

    index: int
    """Place among the lines read; pieces of one long line share a number but not an index."""
    number: int
    text: str
    path: str
    code: bool


def read_lines(text: str) -> tuple[Line, ...]:
    """The document's lines, fence lines left out; a `#` inside a fence is a comment, not a heading.

    A line longer than MAX_LINE is read in pieces, so that the time of a pattern stays bounded.
    """
    lines: list[Line] = []
    headings: list[tuple[int, str]] = []
    parent = ""
    code = False
    for number, raw in enumerate(_LINE_END.split(text), start=1):
        if _FENCE.match(raw):
            code = not code
            continue
        heading = None if code else _HEADING.match(raw)
        if heading:
            level = len(heading[1])
            headings = [*((depth, title) for depth, title in headings if depth < level), (level, heading[2])]
            parent = ""
        bullet = None if code else _BULLET.match(raw)
        if bullet and not bullet[1]:
            parent = bullet[2]
        inside = parent if bullet and bullet[1] else ""
        path = " > ".join([*(title for _, title in headings), *([inside] if inside else [])])
        lines += [Line(len(lines) + i, number, piece, path, code) for i, piece in enumerate(_pieces(raw))]
    return tuple(lines)


def _pieces(text: str) -> list[str]:
    """A line in pieces of at most MAX_LINE characters, parted at white space where there is some."""
    pieces = []
    while len(text) > MAX_LINE:
        cut = text.rfind(" ", 1, MAX_LINE)
        cut = cut if cut > 0 else MAX_LINE
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]
