"""Exact search by one matrix product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.index.base import Search, take, top_k

Score = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class ExactSearch(Search):
    """Scores every candidate.

    Args:
        vectors: `[N, D] float32`.
        score: `[B, D]`, `[N, D]` -> `[B, N]`; the inner product if None.
    """

    def __init__(self, vectors: np.ndarray, score: Score | None = None) -> None:
        super().__init__(name="exact")
        self.size = len(vectors)
        self._score = score or partial(tf.matmul, transpose_b=True)
        self._vectors = tf.Variable(np.asarray(vectors, np.float32), trainable=False, name="candidates")

    def cost(self) -> float:
        return 4.0 * self.size * self._vectors.shape[1]

    def best(self, queries: tf.Tensor, count: tf.Tensor | int, depth: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        values, rows = top_k(self.scores(queries), count)
        return rows, values

    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(self._score(queries, self._vectors), [None, self.size])

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        return take(self._vectors, rows)
