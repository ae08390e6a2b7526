"""Exact top k by one matrix product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from mmtfrs._keras import tf

Score = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class ExactIndex(tf.Module):
    """Scores every candidate and keeps the best k.

    Args:
        ids: `[N]` strings, unique.
        embeddings: `[N, D] float32`.
        k: results per query; cut to N.
        score: `[B, D]`, `[N, D]` -> `[B, N]`; the inner product if None.

    Example:
        >>> index = ExactIndex(["a", "b", "c"], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], k=2)
        >>> ids, scores = index(tf.constant([[1.0, 0.0]]), tf.constant([[b"a"]]))
        >>> ids.numpy().tolist()
        [[b'c', b'b']]
    """

    def __init__(self, ids, embeddings, k: int = 100, score: Score | None = None) -> None:
        super().__init__(name="exact_index")
        ids = np.asarray(ids, dtype=object)
        if not len(ids):
            raise ValueError("`ids` must hold at least one item. Received: none.")
        self.k = min(k, len(ids))
        self._score = score or partial(tf.matmul, transpose_b=True)
        self._ids = tf.constant(ids, tf.string)
        self._embeddings = tf.Variable(np.asarray(embeddings, np.float32), trainable=False, name="candidates")
        self.rows = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(self._ids, tf.range(len(ids), dtype=tf.int32)), default_value=-1
        )

    def __call__(self, queries: tf.Tensor, exclude: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best k candidates of each query that are not excluded.

        Args:
            queries: `[B, D] float32`.
            exclude: `[B, E]` string ids that must not be answered; "" and unknown ids exclude nothing.

        Returns:
            `(ids [B, k] string, scores [B, k] float32)`, best first. Where fewer than k candidates are left, the rest is
            "" with the lowest float32.
        """
        scores = self._score(queries, self._embeddings)
        excluded = self.rows.lookup(exclude)
        rows = tf.where(excluded >= 0)
        places = tf.stack([tf.cast(rows[:, 0], tf.int32), tf.gather_nd(excluded, rows)], axis=1)
        lowest = tf.fill([tf.shape(places)[0]], tf.float32.min)
        scores = tf.tensor_scatter_nd_update(scores, places, lowest)
        best, order = tf.math.top_k(scores, self.k)
        return tf.where(best > tf.float32.min, tf.gather(self._ids, order), ""), best

    def embeddings_of(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B]` string -> `(embeddings [B, D], known [B] bool)`; zeros for an unknown id."""
        rows = self.rows.lookup(ids)
        known = rows >= 0
        found = tf.gather(self._embeddings, tf.maximum(rows, 0))
        return tf.where(known[:, None], found, 0.0), known
