"""Arithmetic that takes a number, or a numpy column of numbers with one for each candidate, so that a formula is written once.

numpy is imported only where a column comes in, since one plan must start at once.
"""

import math
from collections.abc import Sequence
from typing import Any

_NUMBERS = (int, float)

Column = Any
"""A number, or an array of them that broadcasts with the others."""


def is_single(*values: Column) -> bool:
    """Whether all are numbers."""
    for value in values:  # noqa: SIM110  # runs hundreds of times an estimate, and a generator takes twice as long
        if not isinstance(value, _NUMBERS):
            return False
    return True


def maximum(first: Column, *others: Column) -> Column:
    """The greatest, candidate by candidate."""
    if is_single(first, *others):
        return max(first, *others) if others else first
    import numpy as np  # noqa: PLC0415  # a column is here, so numpy is

    for other in others:
        first = np.maximum(first, other)
    return first


def minimum(first: Column, *others: Column) -> Column:
    """The least, candidate by candidate."""
    if is_single(first, *others):
        return min(first, *others) if others else first
    import numpy as np  # noqa: PLC0415  # as above

    for other in others:
        first = np.minimum(first, other)
    return first


def ceil(value: Column) -> Column:
    """The least integer that is not less."""
    if is_single(value):
        return math.ceil(value)
    import numpy as np  # noqa: PLC0415  # as above

    return np.ceil(value)


def floor(value: Column) -> Column:
    """The greatest integer that is not more."""
    if is_single(value):
        return math.floor(value)
    import numpy as np  # noqa: PLC0415  # as above

    return np.floor(value)


def where(condition: Column, value: Column, other: Column) -> Column:
    """One where a condition holds, the other where not; both are computed."""
    if isinstance(condition, bool):
        return value if condition else other
    import numpy as np  # noqa: PLC0415  # as above

    return np.where(condition, value, other)


def holds_everywhere(condition: Column) -> bool:
    """Whether a condition holds for every candidate."""
    return condition if isinstance(condition, bool) else bool(condition.all())


def log2(value: Column) -> Column:
    """The logarithm to base 2 of what is positive."""
    if is_single(value):
        return math.log2(value)
    import numpy as np  # noqa: PLC0415  # as above

    return np.log2(value)


def ln(value: Column) -> Column:
    """The natural logarithm of what is positive."""
    return log2(value) * math.log(2)


def exp(value: Column) -> Column:
    """e to a power."""
    if is_single(value):
        return math.exp(value)
    import numpy as np  # noqa: PLC0415  # as above

    return np.exp(value)


def stacked(values: Sequence[Column]) -> Column:
    """Numbers or columns as the rows of one `[values, candidates]`; `[values, 1]` where all are numbers."""
    import numpy as np  # noqa: PLC0415  # as above

    return np.stack(np.broadcast_arrays(*map(np.atleast_1d, values)))


def row_of(column: Column, number: int) -> Column:
    """One of `stacked` rows; what is the same for all rows is returned as it is."""
    return column if is_single(column) or column.ndim == 1 else column[number]
