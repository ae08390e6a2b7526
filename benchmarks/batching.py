"""Requests in batches, as TF Serving's scheduler makes them, beside the same requests one by one; and what safe lists cost.

    python -m benchmarks.batching [--items 10000] [--clients 16] [--wait 1]

In this process, without a network: clients who each wait for their answer, and a scheduler that merges what has come within
some milliseconds, at most 32 requests, pads lists as TF Serving does, and runs on two threads. The baseline is the same session
asked by each client for itself. Safe lists: `recommend_user` of an export whose lists are taken as they come, beside ours.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np

import mmtfrs  # noqa: F401  first: it chooses Keras 2
from benchmarks._measure import compare
from benchmarks.serving import exported, median
from mmtfrs._keras import tf
from mmtfrs.exporting import signatures
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import Query

SIZES, SECONDS = (1, 2, 4, 8, 16, 32), 4.0  # of batches, as in serving/batching.config: what is short of one is filled up
Inputs = dict[str, np.ndarray]


def merged(requests: list[Inputs]) -> Inputs:
    """Their rows behind one another, lists padded by the first element of each request's own, up to a size that is allowed."""
    requests = requests + requests[:1] * (min(size for size in SIZES if size >= len(requests)) - len(requests))
    whole = {}
    for name, first in requests[0].items():
        parts = [request[name] for request in requests]
        if first.ndim == 1:
            whole[name] = np.concatenate(parts)
            continue
        wide = max(part.shape[1] for part in parts)
        whole[name] = np.empty((len(parts), wide), first.dtype)
        for row, part in enumerate(parts):
            whole[name][row, : part.shape[1]] = part[0]
            whole[name][row, part.shape[1] :] = part[0, 0]
    return whole


class Scheduler:
    """Answers requests of one row in batches.

    Args:
        run: a batch's inputs -> its answer.
        wait: seconds that a batch waits for more.
    """

    def __init__(self, run: Callable[[Inputs], Inputs], wait: float) -> None:
        self._run, self._wait = run, wait
        self._waiting: queue.Queue[tuple[Inputs, Future] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._work) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def ask(self, inputs: Inputs) -> Inputs:
        answer: Future = Future()
        self._waiting.put((inputs, answer))
        return answer.result()

    def stop(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, end = [first], time.perf_counter() + self._wait
            while len(batch) < SIZES[-1] and (left := end - time.perf_counter()) > 0:
                try:
                    more = self._waiting.get(timeout=left)
                except queue.Empty:
                    break
                if more is None:
                    self._waiting.put(None)
                    break
                batch.append(more)
            found = self._run(merged([inputs for inputs, _ in batch]))
            for row, (_, answer) in enumerate(batch):
                answer.set_result({name: value[row : row + 1] for name, value in found.items()})


def session_of(folder: Path) -> Callable[[Inputs], Inputs]:
    """`recommend_user` of an export, run as TF Serving runs it."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    signature = tf.compat.v1.saved_model.load(session, ["serve"], str(folder / "1")).signature_def["recommend_user"]
    outputs, inputs = list(signature.outputs), list(signature.inputs)
    call = session.make_callable(
        [signature.outputs[name].name for name in outputs], [signature.inputs[name].name for name in inputs]
    )
    return lambda given: dict(zip(outputs, call(*(given[name] for name in inputs)), strict=True))


def load(ask: Callable[[Inputs], Inputs], clients: int) -> int:
    """How many requests so many clients get answered."""
    made = [request(number) for number in range(1000)]
    end = time.perf_counter() + SECONDS

    def one(number: int) -> int:
        count = 0
        while time.perf_counter() < end:
            ask(made[(number * 37 + count) % len(made)])
            count += 1
        return count

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(one, range(clients)))


def request(number: int) -> Inputs:
    """A user's, with a history of 1 to 20 items."""
    return Query(f"u{number % 1000}", [f"i{(number * 37 + n) % 500}" for n in range(1 + number % 20)]).request()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--wait", type=float, default=1.0, help="milliseconds, as batch_timeout_micros of serving/batching.config"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        ours = LoadedModel(exported(options.items, Path(made) / "ours"))
        with mock.patch.object(signatures, "_unpadded", lambda values: values):
            plain = LoadedModel(exported(options.items, Path(made) / "plain"))
        rounds = [[median(lambda: model.ask("recommend_user", request(19)), 300) for model in (ours, plain)] for _ in range(7)]  # noqa: B023
        ratios = [mine / theirs for mine, theirs in rounds[1:]]
        print(f"p50, safe lists / as they come: {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
        alone = session_of(Path(made) / "ours" / "bench")
        scheduler = Scheduler(alone, options.wait / 1000)
        try:
            compare(
                "one by one", lambda: load(scheduler.ask, options.clients), lambda: load(alone, options.clients), "requests"
            )
        finally:
            scheduler.stop()


if __name__ == "__main__":
    main()
