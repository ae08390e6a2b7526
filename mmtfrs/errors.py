"""The family of errors a user can cause. The command line prints their text alone, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Error(Exception):
    """Root of every error that mmtfrs raises for a reason the user can mend.

    Example:
        >>> try:
        ...     mmtfrs.Config(model={"fusion": "gatd"})
        ... except mmtfrs.Error as error:
        ...     print(str(error)[-21:])
        Did you mean `gated`?
    """


class WriteError(Error):
    """A file or folder cannot be written: the disk is full, or it may not be written to. `code` is the system's, if it says."""

    code: int | None = None


class SetupError(Error):
    """The Python environment cannot run the library (versions, Keras 2 switch)."""


class ConfigError(Error):
    """A setting is unknown, has the wrong type or contradicts another."""


class DataError(Error):
    """An items, events or users file breaks a rule; the message lists every problem."""


class EncoderError(Error):
    """An encoder could not be found, downloaded or loaded."""


class MediaError(Error):
    """One medium cannot be decoded or exceeds a bound; callers set it aside and go on."""


class StoreError(Error):
    """The feature store cannot be used: locked, damaged or made by another version."""


class RunError(Error):
    """A run folder is missing, incomplete, of another version, or holds other settings."""


class TrainingError(Error):
    """A training has diverged: its loss, weights or metrics are no finite numbers."""


class ExportError(Error):
    """A SavedModel cannot be written or loaded."""


class TuningError(Error):
    """A search space, an objective or a search folder cannot be used."""


def first_line(error: BaseException, length: int = 300) -> str:
    """The first line of an error's text, or the error's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:length]


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` when some known name is close to `name`, else the empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{match[0]}`?" if match else ""
