"""The command of the local server: `mmtfrs serve saved_models/NAME`.

In production, run TF Serving itself on the same folder.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Annotated

import typer

from mmtfrs.cli.console import CommandLine, run_app
from mmtfrs.cli.options import Debug
from mmtfrs.cli.stops import DRAIN
from mmtfrs.exporting.versions import some_versions
from serving.limits import MAX_MESSAGE, MAX_SECONDS
from serving.prometheus import JsonLines

log = logging.getLogger("serving")
app = CommandLine()


@app.command()
def serve(
    folder: Annotated[Path | None, typer.Argument(help="saved_models/NAME")] = None,
    models: Annotated[Path | None, typer.Option("--models", help="A models.config instead of one folder.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8500,
    rest_port: Annotated[int | None, typer.Option(min=0, max=65535, help="REST over HTTP as well; 0 is a free one.")] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 listens on every interface.")] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="As clients call the model; the folder's name otherwise.")] = None,
    poll: Annotated[float, typer.Option(help="Seconds between looks for new versions.")] = 1.0,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Prometheus metrics over HTTP; 0 is a free one.")
    ] = None,
    max_mib: Annotated[int, typer.Option(min=1, max=2047, help="Larger requests are refused.")] = MAX_MESSAGE >> 20,
    max_seconds: Annotated[float, typer.Option(min=0.001, help="Requests that take longer are given up.")] = MAX_SECONDS,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="A JSON line per request, without its content.")] = False,
    debug: Debug = False,
) -> None:
    """Serve the newest version of a model, or of several, over gRPC until stopped."""
    if (folder is None) == (models is None):
        raise typer.BadParameter("give either a folder or --models.")
    if folder is not None:
        some_versions(folder)  # what is not there is told before TensorFlow is loaded
    from serving.grpc_server import Server
    from serving.model_list import read_models

    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if log_requests else logging.INFO)
    found = folder if models is None else read_models(models)
    server = Server(found, name, host, port, rest_port, poll, max_bytes=max_mib << 20, seconds=max_seconds)
    if metrics_port is not None:
        http = server.metrics.serve(metrics_port, host)
        print(f"metrics on http://{host}:{http.server_port}/metrics", flush=True)
    if server.rest is not None:
        print(f"REST on http://{host}:{server.rest.server_port}/v1/models", flush=True)
    server.start()
    try:
        for model in server.models.values():
            print(f"serving {model.name} version {model.current.version} on {host}:{server.port}", flush=True)
        threading.Event().wait()  # until a signal comes
    finally:
        server.stop(DRAIN)


if __name__ == "__main__":
    run_app(app)
