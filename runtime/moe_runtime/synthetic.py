"""Weights for a model without a checkpoint: each element a hash of its tensor's name and its index.

So every layout sees the same model, and a rank makes its own slices alone.
"""

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from moe_runtime.models.spec import ModelSpec

DEVIATION = 0.02
"""Standard deviation of the elements: the initializer_range of the families' releases."""
PIECE = 1 << 18
"""Elements made at a time, to keep a rank small."""


class SyntheticWeights:
    """Norms are one, biases zero, all other weights uniform with deviation 0.02; float32."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._shapes = spec.tensors()

    def read(self, name: str, *slices: slice) -> Tensor:
        """A slice of a tensor."""
        shape = self._shapes[name]
        wanted = [range(*s.indices(n)) for s, n in zip(slices, shape, strict=False)]
        wanted += [range(n) for n in shape[len(wanted) :]]
        if len(shape) == 1:
            return torch.full((len(wanted[0]),), 0.0 if name.endswith(".bias") else 1.0)
        rows, columns = wanted
        return torch.from_numpy(_matrix(zlib.crc32(name.encode()), shape[1], rows, columns))


def _matrix(seed: int, width: int, rows: range, columns: range) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    made = np.empty((len(rows), len(columns)), np.float32)
    step = max(1, PIECE // max(1, len(columns)))
    column = np.arange(columns.start, columns.stop, columns.step, dtype=np.uint64)
    for first in range(0, len(rows), step):
        piece = rows[first : first + step]
        row = np.arange(piece.start, piece.stop, piece.step, dtype=np.uint64)[:, None] * np.uint64(width)
        made[first : first + step] = _uniform((np.uint64(seed) << np.uint64(32)) + row + column)
    return made


def _uniform(
    counter: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Uniform numbers of deviation DEVIATION: SplitMix64's finaliser (Steele, Lea, Flood 2014) on a counter."""
    counter *= np.uint64(0x9E3779B97F4A7C15)
    counter ^= counter >> np.uint64(30)
    counter *= np.uint64(0xBF58476D1CE4E5B9)
    counter ^= counter >> np.uint64(27)
    counter *= np.uint64(0x94D049BB133111EB)
    unit = (counter >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)
    return unit * np.float32(DEVIATION * math.sqrt(3))
