"""Many processes, or machines, on one search: KerasTuner's chief hands out the trials, workers run them.

Local: `python -m tuning.search ... --workers 2`. On several machines, which share the folder of the search:

    KERASTUNER_TUNER_ID=chief KERASTUNER_ORACLE_IP=0.0.0.0 KERASTUNER_ORACLE_PORT=8000 python -m tuning.search ... --out DIR
    KERASTUNER_TUNER_ID=worker-0 KERASTUNER_ORACLE_IP=CHIEF KERASTUNER_ORACLE_PORT=8000 python -m tuning.distributed DIR
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import grpc
import typer
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from mmtfrs.console import note, run_app
from mmtfrs.errors import TuningError
from tuning.job import Job
from tuning.process import die_with_parent, start
from tuning.tuner import ProcessTuner

LEASE = 60.0  # seconds without a sign of a trial before its worker counts as gone
_RESTARTS = 20

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def serve(tuner: ProcessTuner, address: str | None = None, check: Callable[[], list[str]] = list) -> None:
    """Hands out trials until the search has ended; a worker without a sign of life loses its trial to the next.

    Args:
        tuner: of the chief.
        address: `HOST:PORT` to listen on; that of the environment if None.
        check: called several times a second; names of workers that have died.

    Raises:
        TuningError: the address cannot be listened on.
        RuntimeError: too many trials have failed in a row.
    """
    oracle = tuner.oracle
    address = address or f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
    servicer = _Servicer(oracle)
    server = grpc.server(ThreadPoolExecutor(1))
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    try:
        if not server.add_insecure_port(address):
            raise RuntimeError
    except RuntimeError:
        raise TuningError(f"{address} cannot be listened on: the port is taken or not allowed.") from None
    tuner.save()
    server.start()
    signs: dict[str, tuple[float, float]] = {}
    try:
        while servicer.error is None and not (servicer.stop_triggered and not oracle.ongoing_trials):
            for worker in {*check(), *_silent(tuner, signs)}:
                lost = oracle.give_up(worker)
                if lost is not None:
                    note(f"{worker} is gone; trial {lost} is given to another")
            if tuner.hours is not None and tuner.trials.spent() > 3600 * tuner.hours:
                oracle.max_trials = len(oracle.trials)
            if tuner.seen is not None:
                tuner.seen(tuner.trials)
            time.sleep(0.2)
        # The others hear that it is over when they ask for their next trial.
        end = time.monotonic() + 10
        while servicer.error is None and oracle.tuner_ids and time.monotonic() < end:
            time.sleep(0.2)
    finally:
        server.stop(1).wait()
    if servicer.error is not None:
        raise servicer.error


class _Servicer(OracleServicer):
    """Keeps the error that ends a search: gRPC would only tell it to the worker."""

    error: RuntimeError | None = None

    def EndTrial(self, request, context):
        try:
            return super().EndTrial(request, context)
        except RuntimeError as error:
            self.error = error
            raise


def _silent(tuner: ProcessTuner, signs: dict[str, tuple[float, float]]) -> list[str]:
    """Workers whose trial's `alive` has not been touched for a lease, by this machine's clock."""
    gone = []
    now = time.monotonic()
    for worker, trial in list(tuner.oracle.ongoing_trials.items()):
        path = tuner.folder / "trials" / f"trial_{trial.trial_id}" / "alive"
        sign = path.stat().st_mtime if path.exists() else 0.0
        key = f"{worker}/{trial.trial_id}"
        if key not in signs or signs[key][0] != sign:
            signs[key] = (sign, now)
        elif now - signs[key][1] > LEASE:
            gone.append(worker)
            del signs[key]
    return gone


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
        for process in self._processes.values():
            try:
                process.wait(10)
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
        environment = {**os.environ, "KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": host, "KERASTUNER_ORACLE_PORT": port,
                       "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1"}  # fmt: skip
        command = [sys.executable, "-m", "tuning.distributed", str(self._folder)]
        if self._minutes is not None:
            command += ["--minutes", str(self._minutes)]
        self._processes[name] = start(command, self._folder / f"{name}.txt", environment)


@app.command()
def work(
    folder: Annotated[Path, typer.Argument(help="Search folder, on a disk that the chief shares.")],
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Of one trial; then it fails.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run trials for a chief, which the environment variables KERASTUNER_... name, until it has no more."""
    missing = [
        name for name in ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT") if name not in os.environ
    ]
    if missing:
        raise TuningError(f"a worker finds its chief by environment variables. Missing: {', '.join(missing)}.")
    die_with_parent()
    job = Job.read(folder)
    ProcessTuner(job.oracle(), job.space(), job.goal(), folder, minutes=minutes).search()


if __name__ == "__main__":
    run_app(app)
