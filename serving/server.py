"""A small gRPC server that speaks TF Serving's protocol: for development, tests and one machine.

In production, run TF Serving itself on the same folder.
"""

from __future__ import annotations

import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from mmtfrs.console import run_app
from mmtfrs.errors import ExportError
from mmtfrs.exporting.versions import newest_version
from serving.services import ModelService, PredictionService
from serving.versions import ServedModel, Watcher

log = logging.getLogger("serving")
_MAX_MESSAGE = 64 << 20
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Server:
    """Serves one model's folder.

    Args:
        folder: `saved_models/NAME`, with at least one version that loads.
        name: as clients call the model; the folder's name if None.
        host, port: where to listen; port 0 takes a free one.
        poll: seconds between looks for new versions.
        threads: requests worked on at a time.

    Raises:
        ExportError: no version can be loaded, or the port is taken.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8500,
        poll: float = 1.0,
        threads: int = 8,
    ) -> None:
        self.model = ServedModel(name or Path(folder).resolve().name, folder)
        newest_version(folder)
        self.model.refresh()
        if self.model.current is None:
            message = next(iter(self.model.statuses.values())).error_message
            raise ExportError(f"{folder}: no version can be loaded ({message}).")
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its requests without a word
        ]
        self._server = grpc.server(ThreadPoolExecutor(threads), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(self.model), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.model), self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise ExportError(f"{host}:{port} cannot be listened on: the port is taken or not allowed. Use --port.")
        self._watcher = Watcher(self.model, poll)

    def start(self) -> Server:
        """Begins to answer."""
        self._server.start()
        self._watcher.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return self

    def stop(self, grace: float = 10.0) -> None:
        """Takes no new requests and waits for those in flight, at most `grace` seconds."""
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._watcher.stop()
        self._server.stop(grace).wait()

    def _set_health(self, status: int) -> None:
        for service in _SERVICES:
            self._health.set(service, status)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="saved_models/NAME")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8500,
    host: Annotated[str, typer.Option(help="0.0.0.0 listens on every interface.")] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="As clients call the model; the folder's name otherwise.")] = None,
    poll: Annotated[float, typer.Option(help="Seconds between looks for new versions.")] = 1.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Serve the newest version of a model over gRPC until stopped."""
    log.setLevel(logging.INFO)
    server = Server(folder, name, host, port, poll).start()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    print(f"serving {server.model.name} version {server.model.current.version} on {host}:{server.port}", flush=True)
    stopped.wait()
    server.stop()
    print("stopped", flush=True)


if __name__ == "__main__":
    run_app(app)
