"""Locks on files and folders that the system frees, however their process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def lock(number: int, shared: bool = False, wait: bool = False) -> bool:
    """Locks an open file or folder until it is closed; false where another process has it. On a file system without locks
    nothing is locked, and it is true."""
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(number, kind)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def still_there(number: int, path: Path) -> bool:
    """Whether what was opened has its name still: another process may have renamed or removed it before it was locked."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(number), path.stat())
    return False


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A folder's number, for `lock`. Nothing is written: a folder that can only be read can be locked too."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number
    finally:
        os.close(number)


@contextlib.contextmanager
def held(folder: Path, busy: Exception, shared: bool = False) -> Iterator[None]:
    """Holds a folder for the block: many may share it, or one has it alone. Raises `busy` where another process has it."""
    with opened(folder) as number:
        if not lock(number, shared) or not still_there(number, folder):
            raise busy
        yield
