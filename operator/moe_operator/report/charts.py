"""The charts of the page as data: bars of parts, points over two axes, lines over one knob; the template draws them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from moe_operator.report.scales import Tick, decade_steps, hue, linear, logarithmic, round_steps

HEIGHT = 220
"""Pixels of a plot, its labels included."""
TOP, BOTTOM = 28, HEIGHT - 24

_LETTER_PX, _NARROWEST_PX = 7.0, 300.0
"""Width of a letter of a label, and of the narrowest chart in which it must fit."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, in percent of the chart's width."""

    name: str
    at: float
    width: float
    hue: int
    text: str
    """Its amount for people."""

    @property
    def label(self) -> str:
        """Its name where that fits inside on the narrowest screen."""
        return self.name if len(self.name) * _LETTER_PX < self.width / 100 * _NARROWEST_PX else ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A whole in parts."""

    name: str
    total: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a plot: x in percent, y in pixels."""

    x: float
    y: float
    label: str
    text: str
    """What it stands for, shown on hovering."""
    kind: str
    """other, best or planned."""
    label_dx: float = 0.0
    """Pixels from the point to the middle of its label."""
    label_dy: float = -9.0


@dataclass(frozen=True, slots=True)
class Plot:
    """Points over two axes; `joined` are the ends of lines between them."""

    title: str
    description: str
    x_axis: str
    y_axis: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    joined: tuple[tuple[Dot, Dot], ...] = ()
    missing: tuple[Tick, ...] = ()
    """Values of x for which there is no point."""
    target: Tick | None = None
    """A value of x that is asked for."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a plot is made from."""

    x: float
    y: float | None
    text: str
    kind: str = "other"
    label: str = ""


def bar(name: str, total: str, parts: Iterable[tuple[str, float, int, str]], whole: float) -> Bar:
    """A bar of (name, amount, hue, amount for people), `whole` of which would fill the width."""
    segments, at = [], 0.0
    for part, amount, colour, text in parts:
        width = amount / whole * 100 if whole else 0.0
        segments.append(Segment(part, at, width, colour, text))
        at += width
    return Bar(name, total, tuple(segments))


def hues(names: Sequence[str]) -> dict[str, int]:
    """A colour a name, the same in every chart that lists the same names."""
    return {name: hue(index) for index, name in enumerate(names)}


Format = Callable[[float], str]


def scatter(
    title: str,
    description: str,
    x_axis: str,
    y_axis: str,
    points: Sequence[Point],
    show_x: Format,
    show_y: Format,
    target: float | None = None,
) -> Plot:
    """Points over a logarithmic x, with a target on it or none, and a y from 0."""
    ys = [point.y or 0.0 for point in points]
    xs = [*(point.x for point in points), *([] if target is None else [target])]
    place_x, steps = logarithmic(xs), round_steps(max(ys), most=5)
    place_y = linear(0.0, steps[-1], BOTTOM, TOP)
    x_ticks = tuple(Tick(place_x(step), show_x(step)) for step in _spread(decade_steps(min(xs), max(xs)), place_x))
    y_ticks = tuple(Tick(place_y(step), show_y(step)) for step in steps)
    dots = tuple(
        Dot(place_x(p.x), place_y(p.y or 0.0), p.label, p.text, p.kind) for p in sorted(points, key=_drawn_last)
    )
    asked = None if target is None else Tick(place_x(target), f"target {show_x(target)}")
    return Plot(title, description, x_axis, y_axis, x_ticks, y_ticks, tuple(_apart(dots)), target=asked)


def lines(
    title: str, description: str, x_axis: str, y_axis: str, points: Sequence[Point], show_x: Format, show_y: Format
) -> Plot:
    """Points at equal distances along x, joined, over a y from 0."""
    known = [point.y for point in points if point.y is not None]
    steps = round_steps(max(known, default=0.0))
    place_x, place_y = (
        linear(0, len(points) - 1, MARGIN_OF_LINES, 100 - MARGIN_OF_LINES),
        linear(0.0, steps[-1], BOTTOM, TOP),
    )
    dots = [
        None if p.y is None else Dot(place_x(i), place_y(p.y), show_y(p.y), p.text, p.kind)
        for i, p in enumerate(points)
    ]
    joined = tuple((a, b) for a, b in pairwise(dots) if a is not None and b is not None)
    ticks = tuple(Tick(place_x(i), show_x(p.x)) for i, p in enumerate(points))
    missing = tuple(tick for tick, dot in zip(ticks, dots, strict=True) if dot is None)
    y_ticks = tuple(Tick(place_y(step), show_y(step) if step else "0") for step in steps)
    there = tuple(dot for dot in dots if dot is not None)
    return Plot(title, description, x_axis, y_axis, ticks, y_ticks, there, joined, missing)


MARGIN_OF_LINES = 7.0
"""Percent of the width beside the first and last point, whose labels are centred over them."""


def _apart(dots: Iterable[Dot]) -> Iterator[Dot]:
    """The dots, each label where it touches none placed before and stays inside a narrow chart, if there is room."""
    taken: list[tuple[float, float, float]] = []
    for dot in dots:
        if not dot.label:
            yield dot
            continue
        half = len(dot.label) * _LETTER_PX / 2
        x, y, dx, dy = _free_place(dot, half, taken)
        taken.append((x, y, half))
        yield replace(dot, label_dx=dx, label_dy=dy)


def _free_place(
    dot: Dot, half: float, taken: Sequence[tuple[float, float, float]]
) -> tuple[float, float, float, float]:
    """Middle of a label that is twice `half` wide, and its distance from the dot, in pixels; above where none is free."""
    beside = half + 9
    ways = [(dx, dy) for dy in (-9.0, 20.0, -24.0, 34.0) for dx in (0.0, half, -half)]
    ways += [(beside, 4.0), (-beside, 4.0)]
    places = [(dot.x / 100 * _NARROWEST_PX + dx, dot.y + dy, dx, dy) for dx, dy in ways]
    inside = [p for p in places if half <= p[0] <= _NARROWEST_PX - half and TOP - 14 <= p[1] <= BOTTOM + 4]
    free = [p for p in inside if all(abs(p[0] - x) > half + other or abs(p[1] - y) > 13 for x, y, other in taken)]
    return (free or inside or places)[0]


def _drawn_last(point: Point) -> int:
    return ("other", "best", "planned").index(point.kind)


def _spread(steps: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """Of the steps those whose labels do not touch: 14 % of the narrowest chart apart."""
    kept: list[float] = []
    for step in steps:
        if not kept or place(step) - place(kept[-1]) >= 14:
            kept.append(step)
    return kept
