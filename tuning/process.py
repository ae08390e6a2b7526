"""Trials as processes: how one is described, started, and found to have ended."""

from __future__ import annotations

import atexit
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmtfrs.config.config import Config
from mmtfrs.errors import TuningError
from mmtfrs.utils.files import write_error, write_json
from tuning.forks import ERROR, UNWRITTEN, Forks
from tuning.surroundings import mark, unmark

_forks: Forks | None = None
_LOOK = 0.2  # seconds between two looks at a running trial


def write_spec(folder: Path, config: Config, values: dict[str, Any], data: Path, **more: Any) -> None:
    """What a trial's process reads: see `tuning.trial`. The bar of a trial that was interrupted stays as it was."""
    path = folder / "spec.json"
    if path.exists():
        more["bar"] = read_json(path)["bar"]
    spec = {
        "config": config.model_dump(mode="json"),
        "values": json.loads(json.dumps(values)),
        "data": os.path.relpath(data.resolve(), folder.resolve()),  # the search folder may be moved
        "continues": None,
        "keep": False,
        "bar": [],
        "test": False,
        "started": time.time(),
        **more,
    }
    write_json(path, spec)


def run_trial(folder: Path, look: Callable[[], None] = lambda: None, minutes: float | None = None) -> dict[str, Any]:
    """The result of a trial's process; what it prints goes to `log.txt`.

    Args:
        folder: with the `spec.json` of the trial.
        look: called several times a second while it runs.
        minutes: that it may take; None for no bound.

    Raises:
        TuningError: it ended without a result, or was over its time. Where that is for what is around it, its folder is marked.
        WriteError: it could not write its files.
    """
    (folder / ERROR).unlink(missing_ok=True)  # of an earlier attempt
    unmark(folder)
    forks = _trial_forks()
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    forks.start(folder)
    try:
        while (code := forks.wait(_LOOK)) is None:
            look()
            if time.monotonic() > end:
                raise TuningError(f"over its time of {minutes:g} minutes")
    finally:
        forks.kill()
    if (error := write_error(OSError(code - UNWRITTEN, ""), folder)) and error.code:
        raise error
    result = read_result(folder)
    if result is None:
        if not (folder / ERROR).exists():  # killed, or it could not even say why
            mark(folder)
        raise TuningError(failure_reason(folder, code))
    return result


def _trial_forks() -> Forks:
    """This process's own, made when the first trial is started; the next one if it has died."""
    global _forks
    if _forks is None or not _forks.alive:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KERASTUNER")}
        _forks = Forks({**environment, "TF_CPP_MIN_LOG_LEVEL": "3"})
        atexit.register(_forks.close)
    return _forks


def read_result(folder: Path) -> dict[str, Any] | None:
    """`result.json` of a trial that has ended well; None of any other."""
    path = folder / "result.json"
    return read_json(path) if path.exists() else None


def read_json(path: Path) -> Any:
    """A document of a search. Raises `TuningError` for one that is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TuningError(f"{path}: cannot be read ({error}). Remove the folder of this trial, or search in another.") from None


def failure_reason(folder: Path, code: int) -> str:
    """Why a process ended without a result."""
    if code < 0:
        return f"ended by signal {-code}" + (", as the system does when memory runs out" if code == -9 else "")
    if (folder / ERROR).exists():
        return (folder / ERROR).read_text(encoding="utf-8")
    return f"ended with exit code {code}; see {folder / 'log.txt'}"
