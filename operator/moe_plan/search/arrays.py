"""The kinds of columns that a search computes with: one element a candidate."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def distinct(*columns: Ints) -> tuple[Ints, Ints]:
    """Where each distinct row of some columns, none negative, appears first, and for each row which of these it is.

    Ascending, as `np.unique` has it, whose first call imports masked arrays: a tenth of a search's time.
    """
    values = columns[0]
    for column in columns[1:]:
        values = values * (int(column.max(initial=0)) + 1) + column
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    first = np.ones(len(values), dtype=np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    which = np.empty(len(values), dtype=np.int64)
    which[order] = np.cumsum(first) - 1
    return order[first], which


def shared(column: Ints) -> int | Ints:
    """The one number that all of a column is, where it is: what follows from it is then computed once."""
    first = column[:1]
    return int(first[0]) if len(first) and (column == first).all() else column
