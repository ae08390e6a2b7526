"""A process that has loaded what a trial needs, and forks one for each: a trial starts in a tenth of a second, not in four.

It loads TensorFlow but runs nothing in it, so that a fork is as good as a fresh process. It ends with the process that started
it, however that ends, and a trial ends with it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from mmtfrs.cli.console import run_app
from mmtfrs.errors import Error
from mmtfrs.utils.files import write_error
from tuning.lifeline import PARENT, die_with_parent, module
from tuning.surroundings import is_around, mark

ERROR = "error.txt"  # in a trial's folder: why it failed
UNWRITTEN = 64  # and the system's number of what is wrong: exit code of a trial that cannot write, not even why, to its folder


class Forks:
    """Starts trials, one after the other; used from one thread.

    Args:
        environment: of the trials.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._server = subprocess.Popen(
            module("tuning.forks"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**environment, PARENT: str(os.getpid())},
            start_new_session=True,  # Ctrl-C in the terminal is for who started it
        )
        self._pid: int | None = None

    @property
    def alive(self) -> bool:
        """Whether it can start another trial."""
        return self._server.poll() is None and self._pid is None

    def start(self, folder: Path) -> None:
        """Starts the trial of a folder, whose `log.txt` gets what it prints."""
        self._server.stdin.write(f"{folder.resolve()}\n")
        self._pid = int(self._server.stdout.readline() or 0)

    def wait(self, seconds: float) -> int | None:
        """The exit code of the trial, as `subprocess` tells it; None if it has not ended in that time."""
        if self._pid and not select.select([self._server.stdout], [], [], seconds)[0]:
            return None
        code = self._server.stdout.readline()
        self._pid = None
        return int(code) if code else -signal.SIGKILL  # the system took the process that forks, and the trial with it

    def kill(self) -> None:
        """Ends the trial, if one runs."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            while self.wait(1.0) is None:
                pass

    def close(self) -> None:
        """Ends the process and its trial."""
        self._server.kill()
        self._server.wait()


def _serve() -> None:
    """Reads folders from standard input; answers each with a process id, and with an exit code when that one has ended."""
    import tuning.trial  # noqa: F401  what takes seconds

    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        pid = os.fork()
        if pid == 0:
            _trial(folder, os.getppid())
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _trial(folder: Path, server: int) -> None:
    """Runs in the forked process, and never returns."""
    from tuning.trial import run

    code = 1
    try:
        with (folder / "log.txt").open("ab") as log, open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0), os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        os.environ[PARENT] = str(server)
        die_with_parent()
        run_app(lambda: run(folder))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        if is_around(error):
            mark(folder)
        unwritten = write_error(error, folder)
        if unwritten is not None and unwritten.code:
            error, code = unwritten, UNWRITTEN + unwritten.code
        (folder / ERROR).write_text(told(error), encoding="utf-8")
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)  # what the server has to do at its end is not the trial's to do


def told(error: BaseException) -> str:
    """An error in one line: ours in its own words; another's with its name, and without what Keras says around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, Error):
        return " ".join(lines)
    lines = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return f"{type(error).__name__}: {lines[0] if lines else 'it says no more'}"


if __name__ == "__main__":
    die_with_parent()
    _serve()
