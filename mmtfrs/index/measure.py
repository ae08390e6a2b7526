"""What each index costs for what it finds: recall against latency, as numbers, table and chart."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from mmtfrs._keras import tf
from mmtfrs.errors import ExportError
from mmtfrs.evaluation.plots import save_picture
from mmtfrs.index.build import exact_rows, find_effort, make_search, measured_recall, sample_queries
from mmtfrs.index.scan import ScanSearch

KINDS = ("partitions", "partitions int8", "scan", "scann")
RECALLS = (0.8, 0.9, 0.95, 0.99)
_TUNING = 256  # queries for finding the effort; others measure the recall
_SECONDS, _CALLS = 1.0, 300  # of measuring per latency, whichever is over first


@dataclasses.dataclass(frozen=True)
class Measured:
    """One index at one effort.

    Attributes:
        index: `matmul + top_k` (the plain ops), `exact`, or one of `KINDS`.
        asked, recall: the recall it was set to, and the one it has on other queries.
        effort: blocks, leaves or directions looked at.
        one, batch: median milliseconds of a call with 1 and with 32 queries.
        memory: times the float32 vectors.
        build: seconds.
    """

    index: str
    asked: float
    recall: float
    effort: int
    one: float
    batch: float
    memory: float
    build: float


def measure_indexes(
    vectors: np.ndarray,
    queries: np.ndarray | None = None,
    k: int = 100,
    recalls: Sequence[float] = RECALLS,
    kinds: Sequence[str] = KINDS,
    note: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Builds every kind once and measures it at each recall, after the plain ops and the exact index.

    Args:
        vectors: `[N, D] float32`.
        queries: `[n, D]` such as are asked; a sample of the vectors if None.
        k: results per query.
        recalls: what to find.
        kinds: of `KINDS`.
        note: told what is left out, and why.
    """
    vectors = np.asarray(vectors, np.float32)
    k = min(k, len(vectors))
    asked = sample_queries(vectors, queries, 2 * _TUNING)
    tuning, asked = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    truth, tuning_truth = exact_rows(vectors, asked, k), exact_rows(vectors, tuning, k)
    held = tf.constant(vectors)

    def plain(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.math.top_k(tf.matmul(batch, held, transpose_b=True), k)

    found = [Measured("matmul + top_k", 1.0, 1.0, 1, *_latencies(plain, asked), 1.0, 0.0)]
    for kind in ("exact", *kinds):
        start = time.perf_counter()
        try:
            search = make_search(vectors, kind.split()[0], 0.0, k, tuning[:1], kind.endswith("int8"))
        except ExportError as error:
            note(f"{kind}: left out: {error}")
            continue
        build = time.perf_counter() - start
        for recall in (1.0,) if kind == "exact" else recalls:
            if kind != "exact" and find_effort(search, tuning, tuning_truth, recall, trim=False) < recall:
                note(f"{kind}: recall {recall} is not reached")
                continue
            ready = ScanSearch(vectors, search.effort) if isinstance(search, ScanSearch) else search  # as an export leaves it
            reached = measured_recall(ready, asked, truth)
            memory = ready.nbytes() / vectors.nbytes
            best = lambda batch, ready=ready: ready.best(batch, k)  # noqa: E731
            found.append(Measured(kind, recall, reached, ready.effort, *_latencies(best, asked), memory, build))
    return found


def index_table(measured: Sequence[Measured], title: str = "") -> Table:
    """A row per measurement; speeds as times the first one's."""
    table = Table(title=title, title_justify="left")
    for name in (
        "index",
        "recall",
        "looks at",
        "1 query, ms",
        "times faster",
        "32 queries, ms",
        "times faster",
        "memory",
        "build, s",
    ):
        table.add_column(name, justify="left" if name == "index" else "right")
    for each in measured:
        table.add_row(*row(each, measured[0]))
    return table


def row(each: Measured, plain: Measured) -> list[str]:
    """One measurement beside the plain ops."""
    return [
        each.index,
        f"{each.recall:.3f}",
        str(each.effort),
        f"{each.one:.2f}",
        f"{plain.one / each.one:.1f}",
        f"{each.batch:.1f}",
        f"{plain.batch / each.batch:.1f}",
        f"{each.memory:.2f}",
        f"{each.build:.0f}",
    ]


def index_picture(measured: Sequence[Measured], path: str | Path) -> None:
    """Recall against the latency of one query."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    for kind in dict.fromkeys(each.index for each in measured):
        mine = [each for each in measured if each.index == kind]
        panel.plot([each.one for each in mine], [each.recall for each in mine], marker="o", label=kind)
    panel.set_xscale("log")
    panel.set_xlabel("one query, ms")
    panel.set_ylabel("recall")
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=8)
    save_picture(figure, path)


def _latencies(function: Callable, queries: np.ndarray) -> tuple[float, float]:
    """Median milliseconds with 1 and with 32 queries, after a warm-up."""
    call = tf.function(function, autograph=False)
    medians = []
    for size in (1, 32):
        batches = [tf.constant(np.resize(queries[start:], (size, queries.shape[1]))) for start in range(min(64, len(queries)))]
        for batch in batches[:3]:
            call(batch)
        times: list[float] = []
        end = time.perf_counter() + _SECONDS
        while len(times) < (_CALLS if time.perf_counter() < end else 5):
            start = time.perf_counter()
            call(batches[len(times) % len(batches)])[0].numpy()
            times.append(time.perf_counter() - start)
        medians.append(1000 * float(np.median(times)))
    return medians[0], medians[1]
