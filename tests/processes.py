"""Commands as tests run them: in this process, or in processes of their own that are forked where TensorFlow is loaded already.

A fresh interpreter pays seconds for TensorFlow's import; one that is forked from a server which has imported it, and run nothing,
starts in a twentieth of a second and is otherwise as fresh. What is about the start itself uses `run_python`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from mmtfrs.cli.console import run_app

ROOT = Path(__file__).resolve().parents[1]
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
_HANG = 300.0  # seconds after which something hangs; nothing is expected to take so long on any machine
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "mmtfrs.cli.app",
        "mmtfrs.training.baselines",
        "mmtfrs.training.train",
        "mmtfrs.exporting.refresh",
        "mmtfrs.exporting.loaded",
        "serving.grpc_server",
        "serving.model_list",
        "tuning.search",
        "tuning.distributed",
        "tuning.trial",
    ]
)


def run_cli(*arguments, module: str = "mmtfrs.cli.app") -> subprocess.CompletedProcess:
    """`mmtfrs ...`, or `python -m MODULE ...`, in this process, by the same entry point."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [module, *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_app(importlib.import_module(module).app)
    except SystemExit as end:
        code = end.code
    except Exception:  # what --debug lets through is printed by the interpreter
        err.write(traceback.format_exc())
        code = 1
    finally:
        sys.argv = before
    return subprocess.CompletedProcess([module, *arguments], code or 0, out.getvalue(), err.getvalue())


def run_python(code: str, *arguments, timeout: float = _HANG, **environment) -> subprocess.CompletedProcess:
    """Code in a fresh interpreter with a plain environment."""
    return run_interpreter("-c", code, *arguments, timeout=timeout, **environment)


def run_interpreter(*arguments, timeout: float = _HANG, **environment) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` in a plain environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        check=False,
        env={**env, "PYTHONPATH": str(ROOT), **environment},
    )


def wait_until(condition: Callable[[], object], seconds: float = _HANG) -> None:
    """Waits for an event; fails when it hangs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def working(folder: Path) -> list[int]:
    """Processes that have a file below a folder open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while it is looked at
            if any(os.readlink(link).startswith(f"{folder}/") for link in (process / "fd").iterdir()):
                found.add(int(process.name))
    return sorted(found)


class Job:
    """A command in a forked process, ended with the test that started it.

    Args:
        target: a module with an `app`, run as its command line; or a function of a test module, called with the arguments.
        arguments: of the command or the function.
        folder: receives the files of what it prints.
        before: a function of a test module and its arguments, called first in the process, as `die_at`.
    """

    def __init__(self, target: str | Callable, *arguments, folder: Path, before: tuple = ()) -> None:
        number = len(list(folder.glob("job-*.out")))
        self._out, self._err = folder / f"job-{number}.out", folder / f"job-{number}.err"
        self._process = _forks.Process(
            target=_child,
            args=(
                target,
                tuple(map(str, arguments)) if isinstance(target, str) else arguments,
                str(self._out),
                str(self._err),
                before,
            ),
            daemon=False,
        )
        quiet = {name: os.environ.get(name) for name in _QUIET}
        os.environ.update(_QUIET)  # the fork server is started by the first job, and keeps the environment of that moment
        try:
            self._out.touch(), self._err.touch()
            self._process.start()
        finally:
            for name, value in quiet.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def poll(self) -> int | None:
        return self._process.exitcode

    def line(self, start: str) -> str:
        """Waits for a line of its output that begins so, and returns it."""

        def found():
            lines = [line for line in (self.stdout + self.stderr).split("\n")[:-1] if line.startswith(start)]
            assert lines or self.poll() is None, f"it has ended: {self.stdout}{self.stderr}"
            return lines

        wait_until(found)
        return found()[0]

    def wait(self, seconds: float = _HANG) -> int:
        """Its exit code."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"it hangs: {self.stdout}{self.stderr}"
        return self._process.exitcode

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, if it has not ended."""
        if self._process.exitcode is None:
            self.send(signal.SIGKILL)
            self._process.join()


class Jobs:
    """Starts jobs and ends them all, whatever happened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: list[Job] = []

    def __call__(self, target: str | Callable, *arguments, before: tuple = ()) -> Job:
        self._jobs.append(Job(target, *arguments, folder=self._folder, before=before))
        return self._jobs[-1]

    def end(self) -> None:
        for job in self._jobs:
            job.kill()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Jobs]:
    """For fixtures of a wider scope than a test; a test takes the fixture `jobs`."""
    jobs = Jobs(folder)
    try:
        yield jobs
    finally:
        jobs.end()


def _child(target, arguments, out: str, err: str, before: tuple) -> None:
    gc.set_threshold(50_000)  # as in conftest.py
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive the fork server, which ends with pytest
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(ROOT)
    os.environ.update(_QUIET, PYTHONPATH=str(ROOT))
    if before:
        before[0](*before[1:])
    try:
        if callable(target):
            target(*arguments)
        else:
            sys.argv = [target, *arguments]
            run_app(importlib.import_module(target).app)
    finally:
        sys.stdout.flush()


def die_at(number: int, folder: str, log: str) -> None:
    """Ends this process by SIGKILL right before its `number`-th change of a file below `folder`; lists them in `log`."""

    def change(count: int, what: str) -> None:
        with open(log, "a") as file:
            file.write(f"{what}\n")
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _before_changes(folder, change)


def snapshots(folder: str, into: str) -> None:
    """Copies `folder` to `into/NUMBER` before each of this process's changes below it: what a kill at that moment leaves."""
    os.mkdir(into)

    def change(count: int, _: str) -> None:
        with contextlib.suppress(OSError):  # another thread may have renamed what was about to be copied
            shutil.copytree(folder, f"{into}/{count:04d}")

    _before_changes(folder, change)


def _before_changes(folder: str, change: Callable[[int, str], object]) -> None:
    """Calls `change(number, what)` right before each change of a file below `folder`.

    Changes are files opened for writing, renamed, removed, and folders made or removed, as Python's audit hooks see them: the
    points between which a kill leaves the same files behind.
    """
    count, lock, inside = 0, threading.RLock(), threading.local()

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                return
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"):
            path = arguments[0]
        else:
            return
        name = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not f"{name}/".startswith(f"{folder}/") or getattr(inside, "it", False):
            return
        with lock:
            inside.it = True
            try:
                count += 1
                change(count, f"{event} {name}")
            finally:
                inside.it = False

    sys.addaudithook(hook)
