"""From values to places on a chart: shares of its width in percent, heights in pixels, and round ticks beside them.

Charts have no fixed width: what lies along x is in percent, so that text keeps its size on any screen.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MARGIN = 6.0
"""Percent of the width left free on either side of the outermost point."""

_GOLDEN_ANGLE = 137.508
_FIRST_HUE = 212


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled line of a chart: at a percentage of the width, or a pixel of the height."""

    at: float
    label: str


def hue(index: int) -> int:
    """A colour for the n-th of any number of things, far from those before it, in degrees."""
    return round(_FIRST_HUE + index * _GOLDEN_ANGLE) % 360


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps low..high to start..end; everything to the middle where there is no span."""
    if high <= low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(values: Sequence[float]) -> Callable[[float], float]:
    """Maps positive values to percent of the width within the margins, equal ratios to equal distances."""
    place = linear(math.log(min(values)), math.log(max(values)), MARGIN, 100 - MARGIN)
    return lambda value: place(math.log(value))


def round_steps(high: float, most: int = 4) -> tuple[float, ...]:
    """Multiples of a round step from 0 to the first at or above `high`; at most `most` steps, none below 1e-290."""
    if high < 1e-290:  # parts of what floats can hardly hold would be nothing
        return (0.0,)
    rough = high / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return tuple(step * n for n in range(math.ceil(high / step * (1 - 1e-9)) + 1))


def decade_steps(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times powers of ten between low and high; the ends where there is none of these."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = tuple(value for value in found if low <= value <= high)
    return inside if len(inside) > 1 else tuple(dict.fromkeys((low, high)))
