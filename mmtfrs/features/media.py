"""Reduced features of one modality, as rows of a matrix."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class MediaRows:
    """Reduced features of one modality for the items or the users.

    Attributes:
        matrix: `[U + 1, r] float32`, row 0 all zero.
        rows: `[N + 1] int32`, the matrix row of each item or user row; 0 where the medium is absent.
    """

    matrix: np.ndarray
    rows: np.ndarray
