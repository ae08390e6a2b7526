"""The search that reaches a recall, found by measuring."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.errors import ExportError
from mmtfrs.index.base import Search
from mmtfrs.index.clustering import make_blocks
from mmtfrs.index.exact import ExactSearch, Score
from mmtfrs.index.partitions import PartitionSearch
from mmtfrs.index.scan import ScanSearch
from mmtfrs.index.scann import ScannSearch

log = logging.getLogger("mmtfrs")

EXACT_BELOW = 100_000
_QUERIES = 512  # on which recall is measured
_MARGIN = 0.005  # more recall than is asked for: what is measured is a sample
_AGAIN = 128  # of them, where it is only checked
_BATCH = 16
_CHANGE = 0.2  # share by which vectors may grow or shrink before the search is chosen anew


@dataclasses.dataclass(frozen=True)
class Found:
    """The search that was found for other vectors: its name, its effort, and how many vectors there were."""

    name: str
    effort: int
    size: int

    def fits(self, kind: str, size: int) -> bool:
        """Whether it may be taken again where `kind` is asked for nearly as many vectors."""
        return self.name != "exact" and kind in ("auto", self.name) and abs(size - self.size) <= _CHANGE * self.size


def make_search(
    vectors: np.ndarray,
    kind: str = "auto",
    recall: float = 0.95,
    k: int = 100,
    queries: np.ndarray | None = None,
    int8: bool = False,
    tpu: bool = False,
    score: Score | None = None,
    before: Found | None = None,
) -> Search:
    """Builds a search; the least effort that reaches a recall is measured.

    Args:
        vectors: `[N, D] float32`.
        kind: `exact`, `partitions`, `scan`, `scann`, or `auto`: exact below 100 000 vectors, above it the one of partitions,
            scan and exact that reads least.
        recall: share of the exact best k that must be found, on average; 0: the caller will set the effort.
        k: results per query.
        queries: `[n, D]` such as will be asked; a sample of the vectors if None.
        int8: partitions store 8 and 8 bits a number: see `Int8Blocks`.
        tpu: a scan, which ends in `tf.math.approx_max_k`.
        score: not the inner product: then the search is exact.
        before: what was found when the vectors were a little different: taken again if it still reaches the recall.

    Raises:
        ExportError: ScaNN is asked for and missing, or no search of the kind reaches the recall.
    """
    vectors = np.asarray(vectors, np.float32)
    if kind == "exact" or score is not None or (kind == "auto" and len(vectors) < EXACT_BELOW):
        return ExactSearch(vectors, score)
    k = min(k, len(vectors))
    asked = sample_queries(vectors, queries)
    if before is not None and before.fits(kind, len(vectors)):
        search, few = _again(before, vectors, k, int8, tpu), asked[:_AGAIN]
        if measured_recall(search, few, exact_rows(vectors, few, k)) >= recall:
            return search
    truth = exact_rows(vectors, asked, k)
    wanted = min(recall + _MARGIN, 1.0)
    if kind == "auto":
        return _cheapest(vectors, asked, truth, wanted, int8, tpu)
    search = _make(kind, vectors, k, int8, tpu)
    if not recall:  # the caller sets the effort
        return search
    reached = find_effort(search, asked, truth, wanted)
    if reached < recall:
        raise ExportError(f"the index `{kind}` reaches recall {reached:.3f} here, not {recall}. Use --index exact.")
    return search


def find_effort(
    search: Search, queries: np.ndarray, truth: np.ndarray, recall: float, limit: float = np.inf, trim: bool = True
) -> float:
    """Gives a search the least effort that reaches a recall against the `[n, k]` true rows, and returns the recall it has.

    Where it is not reached with all there is, or not at less than a cost of `limit`, that effort stays and falls short. Unless
    `trim`, a scan stays able to look further.
    """
    below, reached = 0, 0.0
    while True:
        search.effort = min(max(2 * below, 1), search.most)
        reached = measured_recall(search, queries, truth)
        if reached >= recall or search.effort == search.most or search.cost() > limit:
            break
        below = search.effort
    while reached >= recall and search.effort - below > max(1, below // 16):
        above, above_reached = search.effort, reached
        search.effort = (below + above) // 2
        reached = measured_recall(search, queries, truth)
        if reached < recall:
            below, search.effort, reached = search.effort, above, above_reached
    if trim and isinstance(search, ScanSearch):
        search.trim()
    return reached


def measured_recall(search: Search, queries: np.ndarray, truth: np.ndarray) -> float:
    """Share of the `[n, k]` true rows that a search finds for its `[n, D]` queries."""
    k = truth.shape[1]
    best = tf.function(lambda batch: search.best(batch, k)[0], autograph=False)
    found = 0
    for start in range(0, len(queries), _BATCH):
        rows = best(tf.constant(queries[start : start + _BATCH])).numpy()
        found += sum(len(np.intersect1d(a, b)) for a, b in zip(rows, truth[start : start + _BATCH], strict=True))
    return found / truth.size


def exact_rows(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """`[n, k]`: the true best rows of each query."""
    search = ExactSearch(vectors)
    best = tf.function(lambda batch: search.best(batch, k)[0], autograph=False)
    return np.concatenate(
        [best(tf.constant(queries[start : start + _BATCH])).numpy() for start in range(0, len(queries), _BATCH)]
    )


def sample_queries(vectors: np.ndarray, queries: np.ndarray | None, count: int = _QUERIES) -> np.ndarray:
    """At most `count` queries; of the vectors themselves where there are no others."""
    source = vectors if queries is None or not len(queries) else queries
    rows = np.random.default_rng(0).choice(len(source), min(count, len(source)), replace=False)
    return np.asarray(source[rows], np.float32)


def _make(kind: str, vectors: np.ndarray, k: int, int8: bool, tpu: bool) -> Search:
    if kind == "scann":
        return ScannSearch(vectors, 1, k)
    if kind == "scan":
        return ScanSearch(vectors, vectors.shape[1], tpu=tpu)
    block = int(np.clip(1 << round(np.log2(len(vectors) ** 0.5 / 8)), 8, 128)) if len(vectors) > 4096 else 8
    return PartitionSearch(vectors, 1, block, int8, make_blocks(vectors, block))


def _again(before: Found, vectors: np.ndarray, k: int, int8: bool, tpu: bool) -> Search:
    search = _make(before.name, vectors, k, int8, tpu)
    search.effort = min(before.effort, search.most)
    if isinstance(search, ScanSearch):
        search.trim()
    return search


def _cheapest(vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, recall: float, int8: bool, tpu: bool) -> Search:
    exact = ExactSearch(vectors)
    best: Search = exact
    for kind in ("scan",) if tpu else ("partitions",) if int8 else ("partitions", "scan"):
        search = _make(kind, vectors, truth.shape[1], int8, tpu)
        reached = find_effort(search, queries, truth, recall, best.cost())
        log.info("index %s: recall %.3f, %.1f MB a query", search.name, reached, search.cost() / 1e6)
        if reached >= recall and search.cost() < best.cost():
            best = search
    if best is exact:
        log.warning("no approximate index reaches recall %.2f on these vectors with less work than the exact one", recall)
    return best
