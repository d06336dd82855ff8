"""Robust least squares over the logarithms of a few positive parameters: Levenberg–Marquardt with Huber-like weights.

Relative errors matter, so residuals are logarithms of prediction over measurement; large ones count by their size and
not its square. Deterministic: no random starts.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_STEP = 1e-4
_TOLERANCE = 0.05
"""Residuals up to this are weighed by their squares."""


def minimise(residuals: Callable[[Vector], Vector], start: Sequence[float], *, rounds: int = 30) -> Vector:
    """Parameters, all positive, that make the residuals least. `residuals` takes parameters as they are."""
    logs = np.log(np.array(start, dtype=float))

    def at(point: Vector) -> Vector:
        return residuals(np.exp(point))

    now, damping = at(logs), 1e-2
    for _ in range(rounds):
        slopes = np.stack([(at(logs + _STEP * unit) - now) / _STEP for unit in np.eye(len(logs))], axis=1)
        weights = 1 / np.maximum(np.abs(now), _TOLERANCE)
        normal = (slopes * weights[:, None]).T @ slopes
        pull = (slopes * weights[:, None]).T @ now
        for _ in range(8):
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -pull)
            tried = at(logs + np.clip(step, -1, 1))
            if _cost(tried) < _cost(now):
                break
            damping *= 4
        else:
            break
        gained = _cost(now) - _cost(tried)
        logs, now, damping = logs + np.clip(step, -1, 1), tried, damping / 3
        if gained < 1e-6 * _cost(now):
            break
    return np.exp(logs)


def _cost(residuals: Vector) -> float:
    size = np.abs(residuals)
    return float(np.where(size < _TOLERANCE, size**2 / (2 * _TOLERANCE), size - _TOLERANCE / 2).sum())
