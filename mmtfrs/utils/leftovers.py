"""Folders for what is not whole yet: locked while who writes them lives, and removed by the next one when nobody does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmtfrs.utils.files import remove
from mmtfrs.utils.locks import lock, opened, still_there

PART, GONE = ".part-", ".gone-"  # how the names begin of what is being written, and of what is being removed


@contextlib.contextmanager
def part_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, to be renamed when it is whole; what is left of it is removed when the block ends, and what a
    process that was killed has left of others, when it begins. Raises OSError where nothing can be written."""
    remove_leftovers(parent)
    path, number = _begin(parent)
    try:
        yield path
    finally:
        remove(path)
        os.close(number)


def remove_leftovers(parent: Path) -> None:
    """Removes the parts in a folder whose owner is dead.

    The system frees a lock however a process ends, and gives it to nobody else: process numbers, which are used again and mean
    nothing on another machine, tell less.
    """
    for path in [*parent.glob(f"{PART}*"), *parent.glob(f"{GONE}*")]:
        with contextlib.suppress(OSError), opened(path) as number:  # its owner lives, or nobody can tell: it stays
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)  # which may be another user's


def _begin(parent: Path) -> tuple[Path, int]:
    """A new folder, and its number with the lock."""
    while True:
        path = parent / f"{PART}{secrets.token_hex(4)}"
        path.mkdir()  # with the modes that the user's umask says, which tempfile's have not
        with contextlib.suppress(FileNotFoundError):
            number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            # One that takes it for dead is waited for. On a file system without locks nothing ever is.
            lock(number, shared=True, wait=True)
            if still_there(number, path):
                return path, number
            os.close(number)  # another process has removed it before it was locked
