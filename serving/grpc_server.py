"""A small gRPC server that speaks TF Serving's protocol: for development, tests and one machine.

In production, run TF Serving itself on the same folder.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mmtfrs.errors import ExportError
from serving.limits import MAX_MESSAGE, MAX_SECONDS, sizes
from serving.model_list import one_model
from serving.prometheus import Metrics
from serving.request_queue import Admission, RequestQueue
from serving.rest import RestServer
from serving.served_model import ServedModel
from serving.services import SERVICES, Services

_QUEUE, _PENDING = 4096, 1 << 20


class Server:
    """Serves one or more models.

    Args:
        models: the models, or the folder of one (`saved_models/NAME`), with at least one version that loads.
        name: as clients call the model of a folder; the folder's name if None.
        host, port: where to listen; port 0 takes a free one.
        rest_port: where to answer HTTP as well; nowhere if None.
        poll: seconds between looks for new versions.
        threads: requests worked on at a time; None for two per core, beyond which they only wait for each other.
        queue: requests worked on or waiting; more are refused with RESOURCE_EXHAUSTED.
        max_bytes: larger requests are refused with RESOURCE_EXHAUSTED.
        seconds: requests that take longer, or longer than their client waits, are given up with DEADLINE_EXCEEDED.

    Raises:
        ExportError: a model has no version that can be loaded, or the port is taken.
    """

    def __init__(
        self,
        models: str | Path | Sequence[ServedModel],
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8500,
        rest_port: int | None = None,
        poll: float = 1.0,
        threads: int | None = None,
        queue: int = _QUEUE,
        max_bytes: int = MAX_MESSAGE,
        seconds: float = MAX_SECONDS,
    ) -> None:
        served = [one_model(models, name)] if isinstance(models, str | Path) else models
        self.models = {model.name: model for model in served}
        for model in served:
            model.refresh()
            if model.current is None:
                reasons = [status.status.error_message for status in model.statuses.values()] or ["no version may serve"]
                raise ExportError(f"{model.folder}: no version can be loaded ({reasons[0]}).")
        self.metrics = Metrics()
        self.services = Services(self.models, self.metrics, seconds)
        self.queue = RequestQueue(threads or 2 * (os.cpu_count() or 1), queue)
        options = [
            *sizes(max_bytes),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its requests silently
            # gRPC's own limits, 1000 and 3000 by default, end calls with CANCELLED before `Admission` has seen them.
            ("grpc.server.max_pending_requests", _PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _PENDING),
        ]
        self._server = grpc.server(self.queue, interceptors=[Admission(self.queue, self.metrics)], options=options)
        self._health = health.HealthServicer()
        self.services.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            message = f"{host}:{port} cannot be listened on: the port is taken or not allowed. Use --port."
            raise ExportError(message) from None
        self.rest = None if rest_port is None else RestServer(self.services, self.queue, host, rest_port, max_bytes)
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=[poll], daemon=True, name="versions")

    def start(self) -> Server:
        """Begins to answer."""
        self._server.start()
        self._watcher.start()
        for service in ("", *SERVICES):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return self

    def stop(self, grace: float = 10.0) -> None:
        """Takes no new requests and waits for those in flight, at most `grace` seconds."""
        self._health.enter_graceful_shutdown()
        self._stopped.set()
        self._server.stop(grace).wait()
        if self.rest is not None:
            self.rest.shutdown()
            self.rest.server_close()

    def _watch(self, seconds: float) -> None:
        """Looks for new versions every so many seconds until stopped."""
        while not self._stopped.wait(seconds):
            for model in self.models.values():
                model.refresh()
