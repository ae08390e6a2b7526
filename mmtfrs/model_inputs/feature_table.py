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
    """

    matrix: np.ndarray
    rows: np.ndarray


def in_order(names: Iterable[str]) -> list[Modality]:
    """Modalities: those with raw media first, then by name."""
    return sorted(names, key=lambda name: (MODALITIES.index(name) if name in MODALITIES else len(MODALITIES), name))


def reduce_media(adapter: Adapter, features: FeatureRows, rows: np.ndarray, count: int) -> MediaRows:
    """Reduces each distinct medium once, a chunk at a time.

    Args:
        adapter: of this modality.
        features: `[n]` media.
        rows: `[n]`, the item or user row of each.
        count: number of items or users.
    """
    used, inverse = features.distinct()
    matrix = np.zeros((len(used) + 1, adapter.reduced_dim), np.float32)
    for start in range(0, len(used), _CHUNK):
        part = used[start : start + _CHUNK]
        matrix[start + 1 : start + 1 + len(part)] = adapter.reduce(features.matrix[part])
    table_rows = np.zeros(count + 1, np.int32)
    table_rows[rows[features.present]] = inverse + 1
    table_rows[0] = 0
    return MediaRows(matrix, table_rows)
