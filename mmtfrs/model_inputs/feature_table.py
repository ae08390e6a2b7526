"""Reduced features of one modality, as rows of a matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from mmtfrs.config.schema import MODALITIES, Modality
from mmtfrs.features.features import FeatureRows
from mmtfrs.model_inputs.pca import Adapter

_CHUNK = 1024  # small enough for the cache


@dataclasses.dataclass(frozen=True)
class MediaRows:
    """Reduced features of one modality for the items or the users.

    Attributes:
        matrix: `[U + 1, r] float32`, row 0 all zero.
        rows: `[N + 1] int32`, the matrix row of each item or user row; 0 where the medium is absent.
        views: `[V, U + 1, r] float32`, the same media augmented, for training alone: no run has them.
    """

    matrix: np.ndarray
    rows: np.ndarray
    views: np.ndarray | None = None


def in_order(names: Iterable[str]) -> list[Modality]:
    """Modalities: those with raw media first, then by name."""
    return sorted(names, key=lambda name: (MODALITIES.index(name) if name in MODALITIES else len(MODALITIES), name))


def reduce_media(adapter: Adapter, features: FeatureRows, rows: np.ndarray, count: int, views: int = 0) -> MediaRows:
    """Reduces each distinct medium once, a chunk at a time.

    Args:
        adapter: of this modality.
        features: `[n]` media.
        rows: `[n]`, the item or user row of each.
        count: number of items or users.
        views: how many of the augmented ones are kept.
    """
    used, inverse = features.distinct()
    matrix = _reduced(adapter, features.matrix, used)
    table_rows = np.zeros(count + 1, np.int32)
    table_rows[rows[features.present]] = inverse + 1
    table_rows[0] = 0
    kept = features.views[:views]
    if not kept:
        return MediaRows(matrix, table_rows)
    first = np.unique(inverse, return_index=True)[1]
    altered = np.repeat(matrix[None], len(kept), axis=0)  # as it is where it could not be augmented
    for made, view in zip(altered, kept, strict=True):
        found = view.rows[features.present][first]
        made[1:][found >= 0] = _reduced(adapter, view.matrix, found[found >= 0])[1:]
    return MediaRows(matrix, table_rows, altered)


def _reduced(adapter: Adapter, matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`[n + 1, r]` of n rows of a matrix, behind one of zeros."""
    made = np.zeros((len(rows) + 1, adapter.reduced_dim), np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        made[start + 1 : start + 1 + len(part)] = adapter.reduce(matrix[part])
    return made
