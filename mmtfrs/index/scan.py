"""Approximate search through everything, but only through the directions in which the vectors differ most."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.index.base import Search, scored_again, take, top_k


class ScanSearch(Search):
    """A product with the first principal directions in bfloat16 finds `again` times as many as are wanted; these are scored in
    float32.

    For vectors without neighborhoods, where partitions would have to look nearly everywhere. On a TPU the first step is what
    its matrix unit and `tf.math.approx_max_k` are made for.

    Args:
        vectors: `[N, D] float32`.
        dim: directions kept.
        again: how many times as many are scored again.
        tpu: find the best by `tf.math.approx_max_k`, which a TPU does at the speed of the product.

    Reference: Chern et al., TPU-KNN: K Nearest Neighbor Search at Peak FLOP/s, 2022, arXiv:2206.14286.
    """

    def __init__(self, vectors: np.ndarray, dim: int = 32, again: int = 4, tpu: bool = False) -> None:
        super().__init__(name="scan")
        vectors = np.asarray(vectors, np.float32)
        self.size, self.again, self._tpu = len(vectors), again, tpu
        self.most = vectors.shape[1]
        self.effort = min(dim, self.most)
        directions = principal_directions(vectors)[:, : self.effort]
        self._vectors = tf.Variable(vectors, trainable=False, name="candidates")
        self._directions = tf.Variable(directions, trainable=False, name="directions")
        self._short = tf.Variable(tf.cast(vectors @ directions, tf.bfloat16), trainable=False, name="short")

    def cost(self) -> float:
        return self.size * (2.0 * self.effort + 16.0)  # a rough score is written twice and read twice

    def best(self, queries: tf.Tensor, count: tf.Tensor | int, depth: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        query = tf.cast(tf.matmul(queries, self._directions), tf.bfloat16)[:, : self.effort]
        short = self._short if self.effort == self._short.shape[1] else self._short[:, : self.effort]
        rough = tf.cast(tf.matmul(query, short, transpose_b=True), tf.float32)
        wanted = tf.minimum(count * self.again, self.size)
        if self._tpu:
            known = tf.get_static_value(wanted)
            _, rows = tf.math.approx_max_k(rough, int(known)) if known is not None else top_k(rough, wanted)
        else:
            _, rows = top_k(tf.ensure_shape(rough, [None, self.size]), wanted)
        exact = tf.linalg.matvec(take(self._vectors, rows), queries)
        return scored_again(rows, exact, count, None if depth is None else depth * self.again)

    def trim(self) -> None:
        """Forgets the directions that are not looked at."""
        self._directions = tf.Variable(self._directions[:, : self.effort], trainable=False, name="directions")
        self._short = tf.Variable(self._short[:, : self.effort], trainable=False, name="short")

    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        return tf.matmul(queries, self._vectors, transpose_b=True)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        return take(self._vectors, rows)


def principal_directions(vectors: np.ndarray) -> np.ndarray:
    """`[N, D]` -> `[D, D] float32` orthonormal columns, those that explain most of the inner products first."""
    sample = vectors[:: max(1, len(vectors) // 100_000)].astype(np.float64)
    values, columns = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(columns[:, np.argsort(-values)]).astype(np.float32)
