"""Many processes, or machines, on one search: KerasTuner's chief hands out the trials, workers run them.

Local: `mmtfrs tune ... --workers 2`. On several machines, which share the folder of the search:

    KERASTUNER_TUNER_ID=chief KERASTUNER_ORACLE_IP=0.0.0.0 KERASTUNER_ORACLE_PORT=8000 python -m tuning.search ... --out DIR
    KERASTUNER_TUNER_ID=worker-0 KERASTUNER_ORACLE_IP=CHIEF KERASTUNER_ORACLE_PORT=8000 python -m tuning.distributed DIR
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from mmtfrs.cli.console import CommandLine, run_app
from mmtfrs.cli.options import Debug, TrustCode
from mmtfrs.errors import TuningError
from tuning import require
from tuning.job import Job
from tuning.lifeline import die_with_parent, module, start

_RESTARTS = 20
_LAST = 1.0  # seconds that a worker has to end

app = CommandLine()


class LocalWorkers:
    """Worker processes on this machine, started again when they die.

    Args:
        folder: of the search.
        count: how many; 0 for none.
        minutes: of one trial.
    """

    def __init__(self, folder: Path, count: int, minutes: float | None = None) -> None:
        self._folder, self._count, self._minutes = folder, count, minutes
        self._processes: dict[str, subprocess.Popen] = {}
        self._left = _RESTARTS
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> LocalWorkers:
        for number in range(self._count):
            self._start(f"worker-{number}")
        return self

    def __exit__(self, *_) -> None:
        for process in self._processes.values():
            process.terminate()
        end = time.monotonic() + _LAST
        for process in self._processes.values():
            try:
                process.wait(max(end - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()

    def check(self) -> list[str]:
        """Starts dead workers again, and returns their names. Raises `TuningError` when they die again and again."""
        dead = [name for name, process in self._processes.items() if process.poll() not in (None, 0)]
        for name in dead:
            self._left -= 1
            if self._left < 0:
                raise TuningError(f"{name} has died again and again; see {self._folder / (name + '.txt')}.")
            self._start(name)
        return dead

    def _start(self, name: str) -> None:
        host, _, port = self.address.partition(":")
        threads = str(max((os.cpu_count() or 1) // max(self._count, 1), 1))
        environment = {
            **os.environ,
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": host,
            "KERASTUNER_ORACLE_PORT": port,
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": "1",
        }
        # The chief has compared the settings in the folder with what its user gave.
        command = module("tuning.distributed", str(self._folder), "--trust-code")
        if self._minutes is not None:
            command += ["--minutes", str(self._minutes)]
        self._processes[name] = start(command, self._folder / f"{name}.txt", environment)


@app.command(goes_on=True)
def work(
    folder: Annotated[Path, typer.Argument(help="Search folder, on a disk that the chief shares.")],
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Of one trial; then it fails.")] = None,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Run trials for a chief, which the environment variables KERASTUNER_... name, until it has no more."""
    require()
    missing = [
        name for name in ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT") if name not in os.environ
    ]
    if missing:
        raise TuningError(f"a worker finds its chief by environment variables. Missing: {', '.join(missing)}.")
    from tuning.tuner import ProcessTuner  # loads KerasTuner, and with it TensorFlow

    die_with_parent()
    job = Job.read(folder)
    job.check_trusted(folder, trust_code)
    ProcessTuner(job.oracle(), job.space(), job.goal(), folder, minutes=minutes).search()


if __name__ == "__main__":
    run_app(app)
