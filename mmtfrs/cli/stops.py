"""Ctrl-C and SIGTERM: every command ends within five seconds, with one line that says how to go on, whatever it is doing.

This file imports nothing that takes long: it is at work while the rest is still being imported.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
DRAIN = 2.5  # seconds that a server waits for what it is answering
_SILENT = 0.5  # seconds after which the line is printed, even if the command has not ended
_GRACE = 3.5  # seconds in which a command may put things in order; then its process is ended as it is
AGAIN = "stopped: run the same command again"
GOES_ON = "stopped: the same command goes on from here"
_SHOW_CURSOR = "\x1b[?25h"  # which a progress bar has hidden


class _Stops:
    """What this process knows of being stopped."""

    before: dict[int, Any] | None = None  # handlers, while ours are there
    inside = False  # a block of `stopping`
    number = 0  # the signal that came
    advice = AGAIN
    told = False
    stderr = 2  # a copy: the real one is elsewhere while TensorFlow is loaded


def advise(text: str) -> None:
    """The line that is printed if the command is stopped from now on."""
    _Stops.advice = text


def stopped() -> bool:
    """Whether a signal has come: what fails from then on fails because of it."""
    return _Stops.number != 0


def listen() -> int | None:
    """From now on SIGINT and SIGTERM raise SystemExit in the main thread, with the code 130 or 143, so that what is half done
    is put away. Where Python does not get to that in time, as in a long call of TensorFlow, or at a second signal, a thread
    ends the process.

    Returns:
        A file descriptor that ends the thread when it is closed; None where there is one already.
    """
    if _Stops.before is not None or threading.current_thread() is not threading.main_thread():
        return None
    heard, woken = os.pipe()
    os.set_blocking(woken, False)
    with contextlib.suppress(OSError):  # a process without standard error has nobody to tell
        _Stops.stderr = os.dup(2)
    _Stops.before = {number: signal.signal(number, _raise) for number in SIGNALS}
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=[heard], daemon=True, name="stops").start()
    return woken


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Listens while the block runs, and says at its end how to go on."""
    if _Stops.inside:
        yield
        return
    woken = listen()
    _Stops.inside = _Stops.before is not None
    try:
        yield
    except BaseException:
        if not stopped():
            raise
    finally:
        if stopped():  # the thread stays, in case that the interpreter does not come to its end
            _tell()
            atexit.register(_ignore)
            raise SystemExit(128 + _Stops.number)
        _Stops.inside = False
        if woken is not None:
            signal.set_wakeup_fd(-1)
            for number, handler in (_Stops.before or {}).items():
                signal.signal(number, handler)
            _Stops.before = None
            os.close(woken)
            if _Stops.stderr != 2:
                os.close(_Stops.stderr)
                _Stops.stderr = 2


def _raise(number: int, _: FrameType | None) -> None:
    if not _Stops.number:  # the thread does the rest
        _Stops.number = number
        if not _Stops.inside:
            _tell()
        raise SystemExit(128 + number)


def _ignore() -> None:
    """At its very end the interpreter would let a second signal kill it, as if nobody had put anything away."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _watch(heard: int) -> None:
    """Signals come here as bytes, by C code, even while Python cannot run its handlers."""
    number = 0
    while number not in SIGNALS:
        if not (data := os.read(heard, 1)):
            os.close(heard)
            return
        number = data[0]
    end = time.monotonic() + _SILENT
    while select.select([heard], [], [], max(end - time.monotonic(), 0.0))[0] and not _Stops.told:
        os.read(heard, 64)  # what comes at once is one wish: `timeout` signals a process and then its group
    _tell()
    select.select([heard], [], [], _GRACE - _SILENT)  # or until a second signal
    os._exit(128 + number)


def _tell() -> None:
    if _Stops.told:
        return
    _Stops.told = True
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):
        cursor = _SHOW_CURSOR if os.isatty(_Stops.stderr) else ""
        os.write(_Stops.stderr, f"{cursor}{_Stops.advice}\n".encode())
