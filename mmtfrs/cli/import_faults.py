"""Packages that are missing, or of versions that do not fit: one line with the remedy instead of a traceback."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

from mmtfrs.errors import Error, SetupError, first_line


def import_fault(error: BaseException) -> SetupError | None:
    """What is told of an error that came up while a package was imported; None for all others.

    A package for another version of what it stands on fails in more ways than ImportError.
    """
    if isinstance(error, SetupError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    importing = any(frame.filename.startswith("<frozen importlib") for frame in frames)
    if not isinstance(error, ImportError) and not (importing and isinstance(error, Exception) and not isinstance(error, Error)):
        return None
    return SetupError(
        f"a package cannot be imported ({type(error).__name__}: {first_line(error)}). `pip install mmtfrs` brings all that is "
        "needed, in versions that fit each other; `mmtfrs version` prints those that are here."
    )


def tell_import_faults() -> None:
    """From now on such an error that nobody catches is told in one line."""
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        fault = None if "--debug" in sys.argv else import_fault(error)
        if fault is None:
            usual(kind, error, where)
        else:
            print(f"error: {fault}", file=sys.stderr)

    sys.excepthook = hook
