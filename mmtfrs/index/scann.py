"""ScaNN's search, for a TF Serving that has its ops; a stock one has not."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.errors import ExportError
from mmtfrs.index.base import LOWEST, Search, take

_ROWS_PER_LEAF = 500  # that its authors recommend
_AGAIN = 4


class ScannSearch(Search):
    """Partitions, 4-bit anisotropic codes, and exact scores for the best.

    Args:
        vectors: `[N, D] float32`, at least 16 of them.
        probes: leaves looked into.
        k: results that are usually asked for.

    Raises:
        ExportError: the library is missing, or there are too few vectors.

    Reference: Guo et al., Accelerating Large-Scale Inference with Anisotropic Vector Quantization, ICML 2020,
    arXiv:1908.10396.
    """

    def __init__(self, vectors: np.ndarray, probes: int, k: int = 100) -> None:
        super().__init__(name="scann")
        ops = scann_ops()
        vectors = np.asarray(vectors, np.float32)
        if len(vectors) < 16:
            raise ExportError(f"ScaNN needs at least 16 items. Received: {len(vectors)}. Use --index exact.")
        self.size = len(vectors)
        leaves = self.most = max(1, min(self.size // _ROWS_PER_LEAF, 2048))
        self.effort = min(probes, leaves)
        builder = ops.builder(tf.constant(vectors), min(k, self.size), "dot_product")
        builder = builder.tree(leaves, self.effort, training_sample_size=min(self.size, 250_000))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(min(_AGAIN * k, self.size))
        self._state = builder.build().serialize_to_module()
        self._vectors = tf.Variable(vectors, trainable=False, name="candidates")

    def cost(self) -> float:
        return self.size * self.effort / self.most * self._vectors.shape[1] / 4.0

    def best(self, queries: tf.Tensor, count: tf.Tensor | int, depth: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        searcher = scann_ops().searcher_from_module(self._state)
        rows, values = searcher.search_batched(
            queries, final_num_neighbors=count, pre_reorder_num_neighbors=count * _AGAIN, leaves_to_search=self.effort
        )
        found = tf.math.is_finite(values)  # NaN and -1 fill up what was not found
        return tf.where(found, tf.cast(rows, tf.int32), -1), tf.where(found, values, LOWEST)

    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        return tf.matmul(queries, self._vectors, transpose_b=True)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        return take(self._vectors, rows)


def scann_ops() -> ModuleType:
    """ScaNN's TensorFlow ops. Raises `ExportError` with the remedy where the library is missing."""
    try:
        from scann import scann_ops as ops
    except ImportError as error:
        raise ExportError(
            f"the index `scann` needs ScaNN's TensorFlow build ({error}). Install it with `pip install scann==1.3.2`, or use "
            "--index partitions."
        ) from None
    return ops
