"""Exact top k against NumPy, with exclusions."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs._keras import tf
from mmtfrs.index.index import Index


@pytest.mark.parametrize("k", [1, 7, 30, 100])
@pytest.mark.parametrize("batch", [1, 5])
def test_against_numpy(k, batch):
    rng = np.random.default_rng(k)
    ids = np.array([f"i{n}" for n in range(30)], object)
    embeddings, queries = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(batch, 6)).astype(np.float32)
    exclude = rng.choice([*ids, "", "unknown"], (batch, 9)).astype(object)
    found, scores = Index(ids, embeddings, k)(tf.constant(queries), tf.constant(exclude, tf.string))
    assert found.shape == (batch, min(k, 30))
    for row in range(batch):
        all_scores = embeddings @ queries[row]
        left = [n for n in np.argsort(-all_scores) if ids[n] not in set(exclude[row])][: min(k, 30)]
        kept = [name.decode() for name in found[row].numpy() if name]
        assert kept == [ids[n] for n in left]
        np.testing.assert_allclose(scores[row, : len(left)], all_scores[left], atol=1e-5)
        assert (scores.numpy()[row, len(left) :] == tf.float32.min).all()


def test_nothing_to_exclude_and_no_rows():
    index = Index(["a", "b"], np.eye(2), 2)
    found, _ = index(tf.constant([[0.0, 1.0]]), tf.zeros([1, 0], tf.string))
    assert found.numpy().tolist() == [[b"b", b"a"]]
    found, _ = index(tf.zeros([0, 2]), tf.zeros([0, 0], tf.string))
    assert found.shape == (0, 2)


def test_embeddings_of():
    vectors, known = Index(["a", "b"], np.array([[1.0, 2.0], [3.0, 4.0]]), 2).embeddings_of(tf.constant(["b", "x"]))
    assert vectors.numpy().tolist() == [[3, 4], [0, 0]] and known.numpy().tolist() == [True, False]
    with pytest.raises(ValueError, match="at least one item"):
        Index([], np.zeros((0, 2)))
