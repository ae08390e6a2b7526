"""Load on a server: requests arrive when they arrive, whether or not earlier ones are answered (an open loop).

mmtfrs loadtest --target localhost:8500 --model demo --rate 100 --seconds 10
"""

from __future__ import annotations

import collections
import dataclasses
import json
import queue
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import grpc
import numpy as np
import typer

from mmtfrs.cli import options
from mmtfrs.cli.console import CommandLine, run_app, show
from mmtfrs.exporting.request import Query, predict_request, stack
from mmtfrs.utils.text import split_ids
from serving.client import Client
from serving.limits import MAX_ROWS, proxy, sizes

if TYPE_CHECKING:
    from tensorflow_serving.apis import predict_pb2

app = CommandLine()


@dataclasses.dataclass
class Load:
    """What came of a load: when each answered request was due, its latency from then, both in seconds, and errors by code."""

    due: np.ndarray
    latencies: np.ndarray
    errors: dict[str, int]
    seconds: float

    def summary(self) -> dict:
        """Requests, answers per second, p50, p95, p99 and the longest in milliseconds, errors."""
        answered = len(self.latencies)
        points = np.percentile(self.latencies, (50, 95, 99, 100)).tolist() if answered else [float("nan")] * 4
        return {
            "requests": answered + sum(self.errors.values()),
            "per_second": round(answered / self.seconds, 1),
            **{f"{name}_ms": round(1000 * point, 3) for name, point in zip(("p50", "p95", "p99", "max"), points, strict=True)},
            "errors": self.errors,
        }


def run_load(target: str, request: predict_pb2.PredictRequest, rate: float, seconds: float, seed: int = 0) -> Load:
    """Sends one request over and over, at exponentially distributed intervals.

    Args:
        target: `HOST:PORT`.
        request: what is asked.
        rate: requests per second on average.
        seconds: for how long; answers are waited for afterwards.
        seed: of the intervals.
    """
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub  # loads TensorFlow

    due = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, int(rate * seconds)))
    ended: queue.SimpleQueue[tuple[grpc.StatusCode, float, float]] = queue.SimpleQueue()
    with grpc.insecure_channel(target, options=[*sizes(), *proxy(target)[1]]) as channel:
        predict = PredictionServiceStub(channel).Predict
        start = time.perf_counter()
        for when in due:
            time.sleep(max(0.0, when - (time.perf_counter() - start)))
            call = predict.future(request, timeout=60)
            call.add_done_callback(lambda call, when=when: ended.put((call.code(), when, time.perf_counter() - start - when)))
        found = [ended.get() for _ in due]
        spent = time.perf_counter() - start
    answers = [times for code, *times in found if code == grpc.StatusCode.OK]
    errors = collections.Counter(code.name for code, *_ in found if code != grpc.StatusCode.OK)
    return Load(*np.array(answers).reshape(-1, 2).T, dict(errors), spent)


def load_picture(load: Load, path: Path) -> None:
    """The share of requests that were answered within a time."""
    from matplotlib.figure import Figure

    from mmtfrs.evaluation.plots import save_picture

    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    times = np.sort(load.latencies) * 1000
    panel.plot(times, 100 * np.arange(1, len(times) + 1) / max(len(times), 1))
    panel.set(xscale="log", xlabel="milliseconds", ylabel="answered within, %")
    panel.grid(alpha=0.3, which="both")
    save_picture(figure, path)


@app.command()
def loadtest(
    target: options.Target = "localhost:8500",
    model: options.ModelName = "model",
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0.0, help="Seconds of the same load before that are not counted.")] = 2.0,
    user: options.User = "",
    history: options.History = "",
    text: options.QueryText = "",
    rows: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="Queries per request.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Where a picture of the latencies goes.")] = None,
    trust_code: options.TrustCode = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure latency and errors under a steady rate of requests."""
    with Client(target, model, trust_code=trust_code) as client:
        signature, inputs = client.requests([Query(user, split_ids(history), text)])[0]
        client.predict(signature, inputs)  # a server or model that is not there is told at once
    request = predict_request(model, signature, stack([inputs] * rows))
    if warmup:
        run_load(target, request, rate, warmup, seed=1)
    load = run_load(target, request, rate, seconds)
    found = load.summary()
    lines = [f"{name:<12} {json.dumps(value) if isinstance(value, dict) else value}" for name, value in found.items()]
    show({"signature": signature, "rate": rate, "rows": rows, **found}, as_json, "\n".join(lines))
    if picture is not None:
        load_picture(load, picture)


if __name__ == "__main__":
    run_app(app)
