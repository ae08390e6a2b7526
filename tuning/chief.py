"""The chief of a search with workers: it hands out the trials, and takes back those of workers that have gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from mmtfrs.cli.console import note
from mmtfrs.errors import TuningError, WriteError
from tuning.tuner import ProcessTuner

LEASE = 60.0  # seconds without a heartbeat of a trial before its worker counts as gone


def serve(tuner: ProcessTuner, address: str | None = None, check: Callable[[], list[str]] = list) -> None:
    """Hands out trials until the search has ended; a worker without a heartbeat of life loses its trial to the next.

    Args:
        tuner: of the chief.
        address: `HOST:PORT` to listen on; that of the environment if None.
        check: called several times a second; names of workers that have died.

    Raises:
        TuningError: the address cannot be listened on.
        RuntimeError: too many trials have failed in a row.
        WriteError: a file cannot be written.
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
    heartbeats: dict[str, tuple[float, float]] = {}
    try:
        while servicer.error is None and not (servicer.stop_triggered and not oracle.ongoing_trials):
            for worker in {*check(), *_stale_workers(tuner, heartbeats)}:
                lost = oracle.give_up(worker)
                if lost is not None:
                    note(f"{worker} lost; trial {lost} re-queued")
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

    error: RuntimeError | WriteError | None = None

    def CreateTrial(self, request, context):
        return self._kept(super().CreateTrial, request, context)

    def EndTrial(self, request, context):
        return self._kept(super().EndTrial, request, context)

    def _kept(self, call, request, context):
        try:
            return call(request, context)
        except (RuntimeError, WriteError) as error:
            self.error = error
            raise


def _stale_workers(tuner: ProcessTuner, heartbeats: dict[str, tuple[float, float]]) -> list[str]:
    """Workers whose trial's `alive` has not been touched for a lease, by this machine's clock."""
    gone = []
    now = time.monotonic()
    for worker, trial in list(tuner.oracle.ongoing_trials.items()):
        path = tuner.folder / "trials" / f"trial_{trial.trial_id}" / "alive"
        heartbeat = path.stat().st_mtime if path.exists() else 0.0
        key = f"{worker}/{trial.trial_id}"
        if key not in heartbeats or heartbeats[key][0] != heartbeat:
            heartbeats[key] = (heartbeat, now)
        elif now - heartbeats[key][1] > LEASE:
            gone.append(worker)
            del heartbeats[key]
    return gone
