"""Trials as processes: how one is described, started, and found to have ended."""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmtfrs.config import Config
from mmtfrs.errors import TuningError
from mmtfrs.files import write_json

_LOOK = 0.2  # seconds between two looks at a running trial
_PARENT = "MMTFRS_SEARCH"  # environment variable: the process without which this one should not live


def write_spec(folder: Path, config: Config, values: dict[str, Any], data: Path, **more: Any) -> None:
    """What a trial's process reads: see `tuning.trial`. The bar of a trial that was interrupted stays as it was."""
    path = folder / "spec.json"
    if path.exists():
        more["bar"] = json.loads(path.read_text(encoding="utf-8"))["bar"]
    spec = {"config": config.model_dump(mode="json"), "values": json.loads(json.dumps(values)), "data": str(data.resolve()),
            "continues": None, "keep": False, "bar": [], "test": False, "started": time.time(), **more}  # fmt: skip
    write_json(path, spec)


def run_trial(folder: Path, look: Callable[[], None] = lambda: None, minutes: float | None = None) -> dict[str, Any]:
    """The result of a trial's process; what it prints goes to `log.txt`.

    Args:
        folder: with the `spec.json` of the trial.
        look: called several times a second while it runs.
        minutes: that it may take; None for no bound.

    Raises:
        TuningError: it ended without a result, or was over its time.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KERASTUNER")}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    process = start([sys.executable, "-m", "tuning.trial", str(folder)], folder / "log.txt", environment)
    try:
        while process.poll() is None:
            look()
            if time.monotonic() > end:
                raise TuningError(f"over its time of {minutes:g} minutes")
            time.sleep(_LOOK)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    result = read_result(folder)
    if result is None:
        raise TuningError(why(folder, process.returncode))
    return result


def read_result(folder: Path) -> dict[str, Any] | None:
    """`result.json` of a trial that has ended well; None of any other."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """A process that ends with this one, if it calls `die_with_parent`."""
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**environment, _PARENT: str(os.getpid())})


def die_with_parent() -> None:
    """What a search has started must not go on, once that has been killed, in a folder that the next search uses."""
    parent = os.environ.get(_PARENT)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        sys.exit(1)


def why(folder: Path, code: int) -> str:
    """Why a process ended without a result."""
    if code < 0:
        return f"ended by signal {-code}" + (", as the system does when memory runs out" if code == -9 else "")
    lines = [line for line in (folder / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"ended with exit code {code}"
