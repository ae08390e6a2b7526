"""Approximate indexes beside the plain exact ops on a million vectors, and filters beside no filter.

The baseline is `tf.math.top_k(tf.matmul(queries, vectors))`, measured in the same run; ScaNN stands in the table where it is
installed. Three kinds of vectors: in clusters; the embeddings of a trained model; 32 Gaussian factors with noise, which have no
neighborhoods to speak of.

    python -m benchmarks.index [--count 1000000] [--data clustered,trained,gaussian] [--recall 0.95]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console

import mmtfrs  # first: it chooses Keras 2
from mmtfrs._keras import tf
from mmtfrs.features.features import Features
from mmtfrs.index.build import make_search
from mmtfrs.index.index import Index
from mmtfrs.index.measure import index_table, measure_indexes

DIM, QUERIES = 64, 512


def clustered(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries around a thousand centers."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(1000, DIM))
    return tuple(_unit(centers[rng.integers(0, 1000, n)] + 0.5 * rng.normal(size=(n, DIM))) for n in (count, QUERIES))


def gaussian(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries of 32 factors, with noise."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(32, DIM))
    return tuple(_unit(rng.normal(size=(n, 32)) @ loadings + rng.normal(size=(n, DIM))) for n in (count, QUERIES))


def trained(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates and queries of a two-tower model, trained on 300 000 events of 10 000 users with tastes among 100 styles."""
    rng = np.random.default_rng(0)
    styles = rng.normal(size=(100, DIM))
    style = rng.integers(0, 100, count)
    media = {"image": np.float32(styles[style] + rng.normal(size=(count, DIM)))}
    users = rng.integers(0, 10_000, 300_000)
    liked = rng.integers(0, 100, (10_000, 3))[users, rng.integers(0, 3, len(users))]
    order = np.argsort(style, kind="stable")
    starts = np.searchsorted(style[order], np.arange(101))
    items = order[(starts[liked] + rng.random(len(users)) ** 2 * (starts[liked + 1] - starts[liked])).astype(int)]
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{row}" for row in range(count)]})
    events = mmtfrs.Events([f"u{row}" for row in users], [f"i{row}" for row in items], np.arange(len(users)))
    config = mmtfrs.Config(model={"use_item_id": False, "history_length": 50}, loss={"negatives": "in_batch"})
    model = mmtfrs.TwoTower(config, catalog, Features.from_arrays(media), events)
    model.compile(optimizer="adam")
    model.fit(model.dataset(events), epochs=2, verbose=0)
    from mmtfrs.exporting.export import sample_queries

    return model.candidate_embeddings(), sample_queries(model)


DATA: dict[str, Callable] = {"clustered": clustered, "trained": trained, "gaussian": gaussian}


def filters(vectors: np.ndarray, queries: np.ndarray, recall: float) -> None:
    """A filter that one item in a hundred passes, beside the same call without."""
    count = len(vectors)
    rng = np.random.default_rng(1)
    attribute = np.where(rng.random(count) < 0.01, "yes", "no").astype(object)
    search = make_search(vectors, recall=recall, queries=queries)
    index = Index(np.char.add("i", np.arange(count).astype(str)).astype(object), search, 100, {"rare": attribute})
    call = tf.function(index.filtered, autograph=False)
    nothing, no_boost = tf.constant([[""]]), tf.constant([[0.0]])

    def ask(allow: str) -> float:
        times = []
        for row in range(60):
            start = time.perf_counter()
            query = tf.constant(queries[row : row + 1])
            found, _ = call(query, nothing, tf.constant([[allow]]), nothing, no_boost, tf.zeros([1]))
            assert (found.numpy() != b"").all(), "every list must be full"
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times[10:])

    free, filtered = ask(""), ask("rare=yes")
    print(
        f"filter that keeps 1 %, index {search.name}: {filtered:.2f} ms; without it {free:.2f} ms; {filtered / free:.1f} times"
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--data", default="clustered,trained,gaussian")
    parser.add_argument("--recall", type=float, default=0.95)
    options = parser.parse_args()
    for name in options.data.split(","):
        vectors, queries = DATA[name](options.count)
        measured = measure_indexes(vectors, queries, 100, (options.recall,), note=print)
        Console(width=140).print(index_table(measured, f"{name}: {len(vectors)} x {vectors.shape[1]}, recall@100"))
        filters(vectors, queries, options.recall)


if __name__ == "__main__":
    main()
