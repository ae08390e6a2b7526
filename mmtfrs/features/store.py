"""The feature store: SHA-256 of a medium's bytes + an encoder's fingerprint -> a feature, kept on disk.

Layout: `index.sqlite` says which row of which matrix belongs to a medium; `MODALITY-FINGERPRINT.f32` is one matrix of
little-endian float32 rows, only ever appended to. A batch is first written and flushed to its matrix, then entered in the
index, with a sum of each row, in one transaction: killed in between, the matrix has a tail that no row refers to, and the next
writer cuts it. No path of the store itself stands in it, so that it can be moved and copied.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import Error, StoreError
from mmtfrs.features.feature_space import FeatureSpace
from mmtfrs.features.index_file import IndexFile, mark_of, matrix_path
from mmtfrs.utils.locks import lock


class FeatureStore:
    """A folder of features. Many may read; one at a time may write.

    Args:
        folder: made if missing.

    Attributes:
        read_only: whether it can only be read, as another user's, or one on a mounted image.

    Raises:
        StoreError: the folder cannot be used, is of another version, or another process is writing to it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock_file = self._lock()
        self.read_only = self._lock_file is None
        try:
            if not self.read_only:
                for left in self.folder.glob("*.part"):  # of a process that was killed: none that lives is without the lock
                    with contextlib.suppress(OSError):
                        left.unlink()
            self._index = IndexFile(self.folder, self.read_only)
        except Error:
            self.close()
            raise

    def _lock(self) -> IO[str] | None:
        """The file that is locked as long as this process may write; None where it may not."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "lock").open("w")
        except OSError as error:
            denied = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
            if denied and (self.folder / "index.sqlite").exists():
                return None
            raise StoreError(f"{self.folder}: the feature store cannot be opened ({error}).") from None
        if not lock(file.fileno()):
            file.close()
            raise StoreError(
                f"{self.folder}: another process is extracting into this feature store. Wait for it, or use another."
            )
        return file

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the transaction in flight and lets others write."""
        if hasattr(self, "_index"):
            self._index.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def require(self, lacking: Mapping[str, int]) -> None:
        """Raises `StoreError` where anything is lacking, how many features of which modality."""
        if missing := ", ".join(f"{count} {modality}" for modality, count in lacking.items() if count):
            raise StoreError(
                f"{self.folder}: this feature store is read-only and lacks features that are asked for: {missing}. "
                "Extract into one that can be written, as a copy of it."
            )

    def space(self, encoder: Encoder) -> FeatureSpace:
        """The features of one encoder."""
        mark = encoder.fingerprint
        found = self._index.ask("select id, dim, sum from spaces where fingerprint = ?", (mark,))
        if found and found[0][2] != mark_of(found[0][0], mark, encoder.modality, found[0][1]):
            found = []  # damaged: its features are as if they had never been
            if not self.read_only:
                self._index.change("delete from spaces where fingerprint = ?", [(mark,)])
        if not found:
            dim, number = encoder.dim, 1 + (self._index.ask("select max(id) from spaces")[0][0] or 0)
            if not self.read_only:
                row = (number, mark, encoder.modality, encoder.name, dim, mark_of(number, mark, encoder.modality, dim))
                self._index.change("insert into spaces values (?, ?, ?, ?, ?, ?)", [row])
            found = [(number, dim, 0)]
        number, dim, _ = found[0]
        encoder.dim = dim  # a function of the user's own need not be called for it
        return FeatureSpace(self._index, number, matrix_path(self.folder, encoder.modality, mark), dim, self.read_only)

    def known_digests(self, paths: Sequence[str]) -> dict[str, tuple[int, int, bytes]]:
        """`{path: (size, time of change in nanoseconds, digest)}` of the files that were read before."""
        marks = ",".join("?" * len(paths))
        found = self._index.ask(f"select path, size, mtime_ns, digest, sum from files where path in ({marks})", paths)
        return {row[0]: row[1:4] for row in found if mark_of(*row[:4]) == row[4]}

    def remember_files(self, files: Sequence[tuple[str, os.stat_result, bytes]]) -> None:
        """Notes the digests of files, so that the next run need not read them."""
        rows = [(path, stat.st_size, stat.st_mtime_ns, digest) for path, stat, digest in files]
        self._index.change("insert or replace into files values (?, ?, ?, ?, ?)", [(*row, mark_of(*row)) for row in rows])
