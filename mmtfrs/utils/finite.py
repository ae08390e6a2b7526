"""NaN, infinity, and numbers so large that they soon become one of them: told where they come from, before they spread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

LARGEST = 1e15  # the squares of larger numbers are soon beyond float32
_CHUNK = 65_536


def bad_rows(matrix: np.ndarray) -> np.ndarray:
    """Numbers of the rows of `[N, dim]` that hold NaN, or anything beyond `LARGEST`; of a mapped file in bounded memory."""
    found = []
    for start in range(0, len(matrix), _CHUNK):
        part = matrix[start : start + _CHUNK]
        # NaN goes through both, and no comparison holds for it.
        most = np.maximum(part.max(axis=1, initial=0), -part.min(axis=1, initial=0))
        found.append(np.flatnonzero(~(most <= LARGEST)) + start)
    return np.concatenate([np.zeros(0, np.int64), *found])


def not_finite(weights: Iterable[Any]) -> str:
    """The name of the first variable that holds NaN, or anything beyond `LARGEST`, "" where none does."""
    return next((weight.name for weight in weights if len(bad_rows(weight.numpy().reshape(1, -1)))), "")
