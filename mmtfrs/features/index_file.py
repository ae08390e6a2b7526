"""`index.sqlite` of a feature store: which row of which matrix belongs to a medium, and a sum of what is in that row."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import urllib.parse
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtfrs.errors import Error, StoreError
from mmtfrs.features.row_sums import row_sums
from mmtfrs.utils.files import write_error

log = logging.getLogger("mmtfrs")

VERSION = 2
_SCHEMA = """
create table if not exists spaces
 (id integer primary key, fingerprint text unique, modality text, name text, dim int, sum int);
create table if not exists features (space int, digest blob, row int, sum int, primary key (space, digest)) without rowid;
create table if not exists files (path text primary key, size int, mtime_ns int, digest blob, sum int) without rowid;
"""
_CHUNK = 1 << 12


class IndexFile:
    """The database, asked and changed by several threads, whose errors are `StoreError`s.

    Args:
        folder: of the store.
        read_only: another's store, or one on a disk that cannot be written.

    Raises:
        StoreError: it cannot be used, or is of another version.
    """

    def __init__(self, folder: Path, read_only: bool) -> None:
        self.path = folder / "index.sqlite"
        self._mutex = threading.Lock()
        with told(self.path):
            if read_only:
                self._db = _open_read_only(self.path)
            else:
                self.path.touch()  # SQLite alone would not follow the umask
                self._db = _connect(str(self.path))
        try:
            with told(self.path):
                self._begin(read_only)
        except Error:
            self.close()
            raise

    def _begin(self, read_only: bool) -> None:
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version not in ((1, VERSION) if read_only else (0, 1, VERSION)):
            raise StoreError(
                f"{self.path.parent}: this feature store is of version {version}; this release reads {VERSION}. "
                "Use another folder."
            )
        if read_only and version != VERSION:
            raise StoreError(
                f"{self.path.parent}: this feature store was made by an earlier release and is read-only, so that no "
                "sums can be added. Extract into it once where it can be written."
            )
        if read_only:
            return
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        if version == 1:
            self._add_sums()
        else:
            self._db.executescript(_SCHEMA)
            self._db.execute(f"pragma user_version = {VERSION}")

    def ask(self, question: str, values: Sequence[Any] = ()) -> list[tuple]:
        """The rows of an answer."""
        with self._mutex, told(self.path):
            return self._db.execute(question, values).fetchall()

    def change(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for each of these rows: all of them, or none."""
        with self._mutex, told(self.path), _transaction(self._db):
            self._db.executemany(statement, rows)

    def close(self) -> None:
        if hasattr(self, "_db"):
            with contextlib.suppress(sqlite3.Error):  # what is not in the file yet is in its log, for the next who opens it
                self._db.close()

    def _add_sums(self) -> None:
        """Brings the first version, which had no sums, to this one; what is on the disk is taken as it is."""
        log.warning("%s: was made by an earlier release; sums of its features are added", self.path.parent)
        sums = {}
        for number, mark, modality, dim in self._db.execute("select id, fingerprint, modality, dim from spaces").fetchall():
            path = matrix_path(self.path.parent, modality, mark)
            matrix = open_matrix(path, rows_on_disk(path, dim), dim)
            sums[number] = np.concatenate(
                [row_sums(matrix[start : start + _CHUNK]) for start in range(0, len(matrix), _CHUNK)] or [np.zeros(0, np.int64)]
            )
        self._db.create_function("row_sum", 2, lambda space, row: int(sums[space][row]) if row < len(sums[space]) else None)
        self._db.create_function("mark", -1, mark_of)
        with _transaction(self._db):
            for table in ("spaces", "features", "files"):
                self._db.execute(f"alter table {table} add column sum int")
            self._db.execute("update spaces set sum = mark(id, fingerprint, modality, dim)")
            self._db.execute("update features set sum = row_sum(space, row)")
            self._db.execute("update files set sum = mark(path, size, mtime_ns, digest)")
            self._db.execute(f"pragma user_version = {VERSION}")


def mark_of(*values: Any) -> int:
    """A checksum of a row of the index itself."""
    return zlib.crc32(repr(values).encode("utf-8", "surrogatepass"))


def matrix_path(folder: Path, modality: str, fingerprint: str) -> Path:
    return folder / f"{modality}-{fingerprint[:16]}.f32"


def rows_on_disk(path: Path, dim: int) -> int:
    return path.stat().st_size // (4 * dim) if path.exists() else 0


def open_matrix(path: Path, rows: int, dim: int) -> np.ndarray:
    """`[rows, dim] float32`, memory-mapped, read-only."""
    return np.memmap(path, "<f4", "r", shape=(rows, dim)) if rows else np.zeros((0, dim), np.float32)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """What SQLite and the system say of a file of the store, as a `StoreError`, or a `WriteError` where it is of the disk."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if (unwritten := write_error(error, path)) is not None:
            raise unwritten from error
        raise StoreError(
            f"{path}: cannot be used ({error}). Remove the folder {path.parent} to extract its features anew."
        ) from error


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin")
    try:
        yield
        db.execute("commit")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has ended it already
            db.execute("rollback")
        raise


def _connect(name: str, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(name, check_same_thread=False, isolation_level=None, uri=uri)


def _open_read_only(path: Path) -> sqlite3.Connection:
    """With what its writer has in the log, where that can be read; else as it is."""
    name = f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro"
    for uri in (name, f"{name}&immutable=1"):
        db = _connect(uri, uri=True)
        try:
            db.execute("select count(*) from sqlite_master").fetchone()
            return db
        except sqlite3.OperationalError as error:
            db.close()
            problem = error
    raise problem
