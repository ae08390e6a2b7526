"""The feature store: SHA-256 of a medium's bytes + an encoder's fingerprint -> a feature, kept on disk.

Layout: `index.sqlite` says which row of which matrix belongs to a medium; `MODALITY-FINGERPRINT.f32` is one matrix of
little-endian float32 rows, only ever appended to. A batch is first written and flushed to its matrix, then entered in the
index in one transaction: killed in between, the matrix has a tail that no row refers to, and the next writer cuts it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import StoreError

_VERSION = 1
_SCHEMA = """
create table if not exists spaces (id integer primary key, fingerprint text unique, modality text, name text, dim int);
create table if not exists features (space int, digest blob, row int, primary key (space, digest)) without rowid;
create table if not exists files (path text primary key, size int, mtime_ns int, digest blob) without rowid;
"""


class FeatureStore:
    """A folder of features. Many may read; one at a time may write.

    Args:
        folder: made if missing.

    Raises:
        StoreError: the folder cannot be used, is of another version, or another process is writing to it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self.folder / "lock").open("w")
        except OSError as error:
            raise StoreError(f"{self.folder}: the feature store cannot be opened ({error}).") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            raise StoreError(
                f"{self.folder}: another process is extracting into this feature store. Wait for it, or use another."
            ) from None
        for left in self.folder.glob("*.part"):  # of a process that was killed: none that lives is without the lock
            with contextlib.suppress(OSError):
                left.unlink()
        self._mutex = threading.Lock()
        try:
            self._db = sqlite3.connect(self.folder / "index.sqlite", check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            version = self._db.execute("pragma user_version").fetchone()[0]
            if version not in (0, _VERSION):
                self.close()
                raise StoreError(
                    f"{self.folder}: this feature store is of version {version}; this release reads {_VERSION}. "
                    "Use another folder."
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"pragma user_version = {_VERSION}")
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"{self.folder}/index.sqlite cannot be used ({error}). Remove the folder to start anew.") from None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the transaction in flight and lets others write."""
        if hasattr(self, "_db"):
            self._db.close()
        self._lock_file.close()

    def space(self, encoder: Encoder) -> FeatureSpace:
        """The features of one encoder."""
        ask = "select id, dim from spaces where fingerprint = ?", (encoder.fingerprint,)
        with self._mutex:
            found = self._db.execute(*ask).fetchone()
            if found is None:
                values = encoder.fingerprint, encoder.modality, encoder.name, encoder.dim
                self._db.execute("insert into spaces (fingerprint, modality, name, dim) values (?, ?, ?, ?)", values)
                found = self._db.execute(*ask).fetchone()
        number, dim = found
        encoder.dim = dim  # a function of the user's own need not be called for it
        path = self.folder / f"{encoder.modality}-{encoder.fingerprint[:16]}.f32"
        return FeatureSpace(self._db, self._mutex, number, path, dim)

    def known_digests(self, paths: Sequence[str]) -> dict[str, tuple[int, int, bytes]]:
        """`{path: (size, time of change in nanoseconds, digest)}` of the files that were read before."""
        with self._mutex:
            found = self._db.execute(f"select path, size, mtime_ns, digest from files where path in {_marks(paths)}", paths)
            return {row[0]: row[1:] for row in found}

    def remember_files(self, files: Sequence[tuple[str, os.stat_result, bytes]]) -> None:
        """Notes the digests of files, so that the next run need not read them."""
        rows = [(path, stat.st_size, stat.st_mtime_ns, digest) for path, stat, digest in files]
        with self._mutex:
            self._db.execute("begin")
            self._db.executemany("insert or replace into files values (?, ?, ?, ?)", rows)
            self._db.execute("commit")


def _marks(values: Sequence) -> str:
    return f"({','.join('?' * len(values))})"


class FeatureSpace:
    """One encoder's matrix in the store."""

    def __init__(self, db: sqlite3.Connection, mutex: threading.Lock, number: int, path: Path, dim: int) -> None:
        self.dim = dim
        self._db, self._mutex, self._number, self._path = db, mutex, number, path
        self._rows = self._mend()

    def __len__(self) -> int:
        return self._rows

    def find(self, digest: bytes) -> int:
        """The row of a medium, or -1."""
        with self._mutex:
            found = self._db.execute(
                "select row from features where space = ? and digest = ?", (self._number, digest)
            ).fetchone()
        return found[0] if found else -1

    def find_all(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """`{digest: row}` of the media that are there."""
        with self._mutex:
            found = self._db.execute(
                f"select digest, row from features where space = ? and digest in {_marks(digests)}", (self._number, *digests)
            )
            return dict(found)

    def append(self, digests: Sequence[bytes], features: np.ndarray) -> range:
        """Adds `[n, dim]` features and returns their rows; on return they survive a kill."""
        first = self._rows
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(features, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        rows = range(first, first + len(digests))
        with self._mutex:
            self._db.execute("begin")
            self._db.executemany(
                "insert into features values (?, ?, ?)",
                [(self._number, digest, row) for digest, row in zip(digests, rows, strict=True)],
            )
            self._db.execute("commit")
        self._rows = rows.stop
        return rows

    def matrix(self) -> np.ndarray:
        """`[rows, dim] float32`, memory-mapped, read-only."""
        if not self._rows:
            return np.zeros((0, self.dim), np.float32)
        return np.memmap(self._path, "<f4", "r", shape=(self._rows, self.dim))

    def _mend(self) -> int:
        """Makes index and matrix agree again after a kill or a power cut, and returns the number of rows."""
        width = 4 * self.dim
        on_disk = self._path.stat().st_size // width if self._path.exists() else 0
        with self._mutex:
            # Only a power cut can lose flushed bytes; then their media are encoded again.
            self._db.execute("delete from features where space = ? and row >= ?", (self._number, on_disk))
            last = self._db.execute("select max(row) from features where space = ?", (self._number,)).fetchone()[0]
        rows = 0 if last is None else last + 1
        if self._path.exists() and self._path.stat().st_size != rows * width:
            os.truncate(self._path, rows * width)
        return rows
