"""Trials that failed for what is around them, and not for their settings: they are tried again when the search goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mmtfrs.errors import TuningError

_MARK = "again"  # in a trial's folder


class Surroundings(TuningError):
    """Files are missing, damaged or others, or the system ended the process."""


def is_around(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is one of files or memory."""
    while error is not None:
        if isinstance(error, (Surroundings, OSError, MemoryError)) or type(error).__name__ == "ResourceExhaustedError":
            return True
        error = error.__cause__ or error.__context__
    return False


def mark(folder: Path) -> None:
    """A trial's folder is for another try."""
    with contextlib.suppress(OSError):  # the disk may be what it failed for
        (folder / _MARK).touch()


def unmark(folder: Path) -> None:
    (folder / _MARK).unlink(missing_ok=True)


def is_marked(folder: Path) -> bool:
    return (folder / _MARK).exists()
