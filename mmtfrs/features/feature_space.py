"""One encoder's matrix in a feature store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtfrs.features.index_file import IndexFile, open_matrix, rows_on_disk, told
from mmtfrs.features.row_sums import row_sums


class FeatureSpace:
    """Rows of features, found by the digest of their medium.

    A row is compared with its sum before it is given. One that is not what was written counts as not there, so that its medium
    is encoded again, into a row of its own: where the others are never changes, and a reader keeps what it has.

    Args:
        index: of the store.
        number: of the space in the index.
        path: of the matrix.
        dim: size of a feature.
        read_only: whether nothing may be mended.

    Attributes:
        damaged: digests of the media whose rows were not what was written.
    """

    def __init__(self, index: IndexFile, number: int, path: Path, dim: int, read_only: bool) -> None:
        self.path, self.dim = path, dim
        self.damaged: set[bytes] = set()
        self._index, self._number = index, number
        self._rows = self._count() if read_only else self._mend()
        self._matrix = open_matrix(path, self._rows, dim)

    def __len__(self) -> int:
        return self._rows

    def find(self, digest: bytes) -> int:
        """The row of a medium, or -1."""
        return self.find_all([digest]).get(digest, -1)

    def find_all(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """`{digest: row}` of the media that are there."""
        marks = ",".join("?" * len(digests))
        question = f"select digest, row, sum from features where space = ? and digest in ({marks})"
        return self._whole(self._index.ask(question, (self._number, *digests)))

    def _whole(self, found: list[tuple[bytes, int, int]]) -> dict[bytes, int]:
        """Those whose rows are what was written."""
        if not found:
            return {}
        digests, rows, sums = zip(*found, strict=True)
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # a damaged index may have anything for a number
            places = np.array(rows, np.int64)
            if places.min() >= 0 and places.max() < self._rows and self._sums(places).tolist() == list(sums):
                return dict(zip(digests, rows, strict=True))
        if len(found) > 1:
            return {digest: row for each in found for digest, row in self._whole([each]).items()}
        self.damaged.update(digests)
        return {}

    def _sums(self, rows: np.ndarray) -> np.ndarray:
        matrix = self.matrix()
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first <= 2 * len(rows):  # they mostly lie side by side: nothing is copied
            return row_sums(matrix[first:last])[rows - first]
        return row_sums(matrix[rows])

    def append(self, digests: Sequence[bytes], features: np.ndarray) -> range:
        """Adds `[n, dim]` features and returns their rows; on return they survive a kill."""
        features = np.ascontiguousarray(features, "<f4")
        with told(self.path), self.path.open("ab") as file:
            file.write(features.tobytes())
            file.flush()
            os.fsync(file.fileno())
        rows = range(self._rows, self._rows + len(digests))
        values = zip(digests, rows, row_sums(features).tolist(), strict=True)
        self._rows = rows.stop  # first: what the index has, another thread may ask for at once
        self._index.change("insert or replace into features values (?, ?, ?, ?)", [(self._number, *each) for each in values])
        return rows

    def matrix(self) -> np.ndarray:
        """`[rows, dim] float32`, memory-mapped, read-only."""
        made = self._matrix
        if len(made) < self._rows:
            self._matrix = made = open_matrix(self.path, self._rows, self.dim)
        return made  # another thread may put an older one in its place

    def _count(self) -> int:
        """The number of rows that both index and matrix have."""
        last = self._index.ask(
            "select max(row) from features where space = ? and row < ?", (self._number, rows_on_disk(self.path, self.dim))
        )[0][0]
        return 0 if last is None else last + 1

    def _mend(self) -> int:
        """Makes index and matrix agree again after a kill or a power cut, and returns the number of rows."""
        # Only a power cut can lose flushed bytes; then their media are encoded again.
        lost = [(self._number, rows_on_disk(self.path, self.dim))]
        self._index.change("delete from features where space = ? and row >= ?", lost)
        rows = self._count()
        with told(self.path):
            if not rows:
                self.path.unlink(missing_ok=True)  # who reads it although the index has lost it keeps it
            elif self.path.stat().st_size != rows * 4 * self.dim:
                os.truncate(self.path, rows * 4 * self.dim)
        return rows
