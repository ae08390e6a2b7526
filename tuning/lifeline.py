"""Processes of a search end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

PARENT = "MMTFRS_SEARCH"  # environment variable: the process without which this one should not live


_RUN = """import sys
sys.path = sys.argv.pop(1).split(sys.argv.pop(1))
import runpy
runpy.run_module(sys.argv.pop(1), None, "__main__", True)"""


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module where modules are looked for as they are here: `python -m` would take them from the
    working folder before all that is installed (see `mmtfrs.utils.extensions`)."""
    places = os.pathsep.join(filter(None, sys.path))
    return [sys.executable, "-c", _RUN, places, os.pathsep, name, *arguments]


def start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """A process that ends with this one, if it calls `die_with_parent`; Ctrl-C in the terminal is for this one alone."""
    with log.open("ab") as file:
        marked = {**environment, PARENT: str(os.getpid())}
        return subprocess.Popen(command, stdout=file, stderr=file, env=marked, start_new_session=True)


def die_with_parent() -> None:
    """What a search has started must not go on, once that has been killed, in a folder that the next search uses."""
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        sys.exit(1)
