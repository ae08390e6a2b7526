"""Smoothing over the item graph, by hand and against NumPy's dense form."""

from __future__ import annotations

import numpy as np

from mmtfrs.config.schema import GraphConfig
from mmtfrs.model_inputs.feature_table import MediaRows
from mmtfrs.model_inputs.item_graph import edges, smooth


def test_edges_by_hand():
    # Two pairs of twins: each one's nearest neighbor is the other of its pair.
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    first, second, weights = edges(vectors, 1)
    assert list(zip(first, second, strict=True)) == [(0, 1), (1, 0), (2, 3), (3, 2)] and (weights == 1).all()


def test_equals_the_dense_form():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 5)).astype(np.float32)
    config = GraphConfig(neighbors=3, layers=2, share=0.4)
    found = smooth(MediaRows(np.concatenate([np.zeros((1, 5), np.float32), vectors]), np.arange(41)), "image", config)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = units @ units.T
    np.fill_diagonal(similar, -np.inf)
    joined = np.zeros((40, 40))
    joined[np.arange(40)[:, None], np.argsort(-similar, axis=1)[:, :3]] = 1
    joined = np.maximum(joined, joined.T)
    degree = joined.sum(1)
    operator = 0.6 * np.eye(40) + 0.4 * joined / np.sqrt(np.outer(degree, degree))
    expected = operator @ operator @ vectors
    expected /= np.sqrt((expected**2).mean())
    np.testing.assert_allclose(found.matrix[1:], expected, atol=1e-5)
    assert not found.matrix[0].any() and (found.rows == np.arange(41)).all()
