"""Processes of a search end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

PARENT = "MMTFRS_SEARCH"  # environment variable: the process without which this one should not live


def start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """A process that ends with this one, if it calls `die_with_parent`."""
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**environment, PARENT: str(os.getpid())})


def die_with_parent() -> None:
    """What a search has started must not go on, once that has been killed, in a folder that the next search uses."""
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        sys.exit(1)
