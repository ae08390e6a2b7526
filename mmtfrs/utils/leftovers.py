"""Folders for what is not whole yet: locked while who writes them lives, and removed by the next one when nobody does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PART, GONE = ".part-", ".gone-"  # how the names begin of what is being written, and of what is being removed


@contextlib.contextmanager
def part_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, to be renamed when it is whole; what is left of it is removed when the block ends, and what a
    process that was killed has left of others, when it begins. Raises OSError where nothing can be written."""
    remove_leftovers(parent)
    path, lock = _begin(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_leftovers(parent: Path) -> None:
    """Removes the parts in a folder whose owner is dead.

    The system frees a lock however a process ends, and gives it to nobody else: process numbers, which are used again and mean
    nothing on another machine, tell less.
    """
    for path in [*parent.glob(f"{PART}*"), *parent.glob(f"{GONE}*")]:
        with contextlib.suppress(OSError), _opened(path) as lock:  # its owner lives, or nobody can tell: it stays
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)


def _begin(parent: Path) -> tuple[Path, int]:
    """A new folder, and the open lock on it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PART, dir=parent))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks, where nothing is ever taken for dead
                fcntl.flock(lock, fcntl.LOCK_SH)
            if path.exists():
                return path, lock
            os.close(lock)  # another process has removed it before it was locked


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number
    finally:
        os.close(number)
