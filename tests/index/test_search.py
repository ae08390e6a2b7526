"""Approximate searches against NumPy: exact when they look at everything, at the recall they were built for otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs._keras import tf
from mmtfrs.errors import ExportError
from mmtfrs.index.base import top_k
from mmtfrs.index.build import Found, exact_rows, make_search, measured_recall
from mmtfrs.index.clustering import assign, k_means, make_blocks
from mmtfrs.index.exact import ExactSearch
from mmtfrs.index.index import Index
from mmtfrs.index.partitions import PartitionSearch
from mmtfrs.index.scan import ScanSearch


def clustered(count=6000, dim=16, clusters=60, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, dim))
    made = [centers[rng.integers(0, clusters, n)] + 0.3 * rng.normal(size=(n, dim)) for n in (count, 200)]
    return [np.float32(part / np.linalg.norm(part, axis=1, keepdims=True)) for part in made]


def true_scores(vectors, queries, k):
    return -np.sort(-(queries @ vectors.T), axis=1)[:, :k]


@pytest.mark.parametrize("length", [100, 16384, 20_001, 50_000])
@pytest.mark.parametrize("k", [1, 90])
def test_top_k_is_tensorflows_ties_and_all(length, k):
    scores = np.float32(np.random.default_rng(length).integers(0, 300, (3, length)))
    values, rows = top_k(tf.constant(scores), k)
    expected = tf.math.top_k(scores, k)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(rows, expected.indices)


def test_k_means_finds_what_is_planted():
    centers = np.float32([[0, 0], [10, 0], [0, 10]])
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, 900)
    vectors = centers[rows] + np.float32(0.1 * rng.normal(size=(900, 2)))
    # From some beginnings two centers share a cluster for ever: the best of several is meant.
    found = min(
        (k_means(vectors, 3, seed, rounds=20) for seed in range(6)),
        key=lambda made: ((vectors - made[assign(vectors, made)]) ** 2).sum(),
    )
    order = assign(centers, found)
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found[order], centers, atol=0.05)


@pytest.mark.parametrize("count", [1, 7, 64, 1000])
def test_blocks_hold_every_row_once_and_are_nearly_full(count):
    vectors = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    table = make_blocks(vectors, 16)
    assert sorted(table[table >= 0]) == list(range(count))
    assert table.shape[1] == 16 and len(table) <= -(-count // 16) + max(1, min(round(count**0.5), count // 64))


def test_equal_vectors_are_no_trouble():
    vectors = np.ones((500, 4), np.float32)
    search = PartitionSearch(vectors, 8, 16)
    rows, scores = search.best(tf.ones([1, 4]), 100)
    assert len(set(rows.numpy()[0])) == 100 and (scores.numpy() == 4).all()


@pytest.mark.parametrize(
    "make",
    [lambda v: PartitionSearch(v, 10**6, 32), lambda v: PartitionSearch(v, 10**6, 32, int8=True), lambda v: ScanSearch(v, 16)],
)
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_looking_everywhere_is_exact(make, batch):
    vectors, queries = clustered(700)
    search, queries = make(vectors), queries[:batch]
    rows, scores = search.best(tf.constant(queries), 20)
    np.testing.assert_allclose(scores, true_scores(vectors, queries, 20), atol=2e-4)
    np.testing.assert_allclose(scores, np.einsum("bkd,bd->bk", vectors[rows], queries), atol=2e-4)
    np.testing.assert_allclose(search.vectors(tf.range(700)), vectors, atol=2e-4)
    everything = search.scores(tf.constant(queries)).numpy()
    order = search.rows_of(tf.range(everything.shape[1])).numpy()
    np.testing.assert_allclose(everything[:, order >= 0], (queries @ vectors.T)[:, order[order >= 0]], atol=2e-4)
    assert (everything[:, order < 0] == tf.float32.min).all()


@pytest.mark.parametrize(
    "kind, int8, tpu",
    [("partitions", False, False), ("partitions", True, False), ("scan", False, False), ("scan", False, True)],
)
def test_recall_is_what_was_asked_for(kind, int8, tpu):
    vectors, queries = clustered()
    search = make_search(vectors, kind, 0.9, 50, queries[:100], int8, tpu)
    truth = np.argsort(-(queries[100:] @ vectors.T), axis=1)[:, :50]
    assert 0.87 < measured_recall(search, queries[100:], truth) <= 1
    assert 1 <= search.effort < search.most
    assert {tuple(sorted(row)) for row in exact_rows(vectors, queries[100:], 50)} == {tuple(sorted(row)) for row in truth}


def test_memory_of_eight_and_eight_bits():
    vectors = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    table = make_blocks(vectors, 128)
    assert PartitionSearch(vectors, 4, blocks=table).nbytes() <= 1.3 * vectors.nbytes
    assert PartitionSearch(vectors, 4, int8=True, blocks=table).nbytes() <= 0.6 * vectors.nbytes * len(table) * 128 / 20_000


def test_auto_is_exact_for_few_and_where_nothing_is_cheaper(caplog):
    vectors, queries = clustered(500)
    assert isinstance(make_search(vectors), ExactSearch)
    assert isinstance(make_search(vectors, "partitions", score=lambda a, b: tf.matmul(a, b, transpose_b=True)), ExactSearch)
    assert isinstance(make_search(vectors, "partitions", 1.0, 10, queries), PartitionSearch)


def test_xla_compiles_the_searches():
    vectors, queries = clustered(2000)
    for search in (
        PartitionSearch(vectors, 12, 32),
        PartitionSearch(vectors, 12, 32, int8=True),
        ScanSearch(vectors, 12),
        ScanSearch(vectors, 12, tpu=True),
        ExactSearch(vectors),
    ):
        function = lambda batch, search=search: search.best(batch, 30)
        plain = tf.function(function, autograph=False)(tf.constant(queries[:4]))
        compiled = tf.function(function, autograph=False, jit_compile=True)(tf.constant(queries[:4]))
        np.testing.assert_allclose(plain[1], compiled[1], atol=1e-4)
        assert np.mean(plain[0].numpy() == compiled[0].numpy()) > 0.95


def test_excluding_more_than_was_looked_at_still_fills_the_list():
    vectors, queries = clustered(3000)
    ids = [f"i{row}" for row in range(3000)]
    index = Index(ids, PartitionSearch(vectors, 2, 16), 20)
    order = np.argsort(-(queries[0] @ vectors.T))
    found, scores = index(tf.constant(queries[:1]), tf.constant([[ids[row] for row in order[:200]]]))
    assert [name.decode() for name in found.numpy()[0]] == [ids[row] for row in order[200:220]]
    np.testing.assert_allclose(scores[0], (queries[0] @ vectors.T)[order[200:220]], atol=1e-5)


def test_scann_or_a_clear_error():
    vectors, queries = clustered(4000)
    try:
        from scann import scann_ops  # noqa: F401
    except ImportError:
        with pytest.raises(ExportError, match="pip install scann"):
            make_search(vectors, "scann")
        return
    search = make_search(vectors, "scann", 0.9, 50, queries[:100])
    assert measured_recall(search, queries[100:], exact_rows(vectors, queries[100:], 50)) > 0.87
    with pytest.raises(ExportError, match="at least 16 items"):
        make_search(vectors[:5], "scann")


def test_what_was_found_before_is_taken_again_while_it_reaches_the_recall():
    vectors, queries = clustered()
    first = make_search(vectors, "partitions", 0.9, 50, queries)
    found = Found(first.name, first.effort, first.size)
    truth = exact_rows(vectors[:5900], queries, 50)
    again = make_search(vectors[:5900], "partitions", 0.9, 50, queries, before=found)
    assert again.effort == first.effort and measured_recall(again, queries, truth) >= 0.9
    more = make_search(vectors[:5900], "partitions", 0.9, 50, queries, before=Found("partitions", first.effort + 5, 6000))
    assert more.effort == first.effort + 5  # nothing was searched for
    lazy = make_search(vectors[:5900], "partitions", 0.9, 50, queries, before=Found("partitions", 1, 6000))
    assert lazy.effort > 1 and measured_recall(lazy, queries, truth) >= 0.9
    assert found.fits("auto", 6600) and not found.fits("partitions", 9000) and not found.fits("scan", 6000)
    assert not Found("exact", 1, 6000).fits("auto", 6000)
