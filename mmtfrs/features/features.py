"""Features of a catalog and of users, in their order, memory-mapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mmtfrs.config.schema import Modality

if TYPE_CHECKING:
    from mmtfrs.encoders.base import Encoder


class FeatureRows:
    """`[N, dim]` features in catalog order over a memory-mapped matrix, with absent rows.

    Args:
        matrix: `[U, dim] float32`, one row per distinct medium, in any order.
        rows: `[N] int64`, the matrix row of each catalog row, -1 where the medium is absent.
        fingerprint: of the encoder that made them.
        views: of the same media, augmented; -1 where there is none of a medium.
    """

    def __init__(self, matrix: np.ndarray, rows: np.ndarray, fingerprint: str = "", views: Sequence[FeatureRows] = ()) -> None:
        self.matrix = matrix
        self.rows = np.asarray(rows, np.int64)
        self.fingerprint = fingerprint
        self.views = tuple(views)

    @property
    def present(self) -> np.ndarray:
        """`[N] bool`."""
        return self.rows >= 0

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """`[U]` matrix rows of the media, each once, and for each row that is present which of them it has.

        They are in the order of the catalog: where a medium lies in a store depends on what was extracted before, on kills and
        on repairs, and must not show in anything that is made of it.
        """
        used, first, inverse = np.unique(self.rows[self.present], return_index=True, return_inverse=True)
        order = np.argsort(first)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return used[order], places[inverse]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Rows of the catalog as `[n, dim] float32`, zeros where absent; only these are read from disk."""
        rows = self.rows[index]
        features = np.array(self.matrix[np.maximum(rows, 0)]) if len(self.matrix) else np.zeros((*rows.shape, self.dim))
        features = features.astype(np.float32, copy=False)
        features[rows < 0] = 0.0
        return features

    def __array__(self, dtype: DTypeLike | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclasses.dataclass(frozen=True)
class Reject:
    """One medium that was set aside."""

    table: str
    id: str
    modality: str
    medium: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Features:
    """What extraction gives: features of items and users per modality, the encoders used, and what was set aside.

    Example:
        >>> features = Features.from_arrays({"text": [[0.1, 0.9], [0.8, 0.2]]}, {"text": [True, False]})
        >>> features.items["text"].present.tolist()
        [True, False]
    """

    items: dict[Modality, FeatureRows]
    users: dict[Modality, FeatureRows] = dataclasses.field(default_factory=dict)
    encoders: dict[Modality, Encoder] = dataclasses.field(default_factory=dict)
    user_ids: np.ndarray = dataclasses.field(default_factory=lambda: np.array([], object))  # order of `users`
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    encoded: int = 0  # media that this extraction encoded; the others were in the store

    @classmethod
    def from_arrays(cls, items: Mapping[Modality, ArrayLike], present: Mapping[Modality, ArrayLike] | None = None) -> Features:
        """Features made elsewhere: `{modality: [N, dim]}` in catalog order, and which rows count."""
        made = {}
        for modality, given in items.items():
            values = np.asarray(given, np.float32)
            mask = np.ones(len(values), bool) if present is None else np.asarray(present[modality], bool)
            made[modality] = FeatureRows(values, np.where(mask, np.arange(len(values)), -1))
        return cls(made)
