"""Approximate search in the blocks that are most likely to hold the best."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.index.base import LOWEST, Search, scored_again, take, top_k
from mmtfrs.index.clustering import make_blocks
from mmtfrs.index.storage import Int8Blocks, Storage, WholeBlocks, variable

_SPREAD = 2.0  # standard deviations above its center at which a block's best vectors are expected


class PartitionSearch(Search):
    """Vectors lie in dense blocks; a query looks into the `effort` blocks of which the best vectors should score highest.

    Plain gathers, matrix products and top_k of static shapes: XLA compiles it, and a stock TF Serving runs it.

    Args:
        vectors: `[N, D] float32`.
        effort: blocks looked into.
        block: rows of a block.
        int8: store each number as 8 bits of its distance from the center, and 8 more for the final scores.
        blocks: `[blocks, block] int32` from `make_blocks`; made if None.

    Reference: inverted files with residuals, Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, TPAMI
    2011, with scalar instead of product quantization.
    """

    def __init__(
        self, vectors: np.ndarray, effort: int, block: int = 128, int8: bool = False, blocks: np.ndarray | None = None
    ) -> None:
        super().__init__(name="partitions")
        vectors = np.asarray(vectors, np.float32)
        table = make_blocks(vectors, block) if blocks is None else blocks
        self.size = len(vectors)
        self.most, self.block = table.shape
        self.effort = min(effort, self.most)
        filled = table >= 0
        packed = np.where(filled[:, :, None], vectors[np.maximum(table, 0)], np.float32(0.0))
        counts = filled.sum(axis=1).astype(np.float32)
        centers = packed.sum(axis=1) / counts[:, None]
        variance = (packed**2).sum(axis=(1, 2)) / counts - (centers**2).sum(axis=1)
        spread = _SPREAD * np.sqrt(np.maximum(variance, 0.0) / vectors.shape[1])
        slots = np.empty(self.size, np.int32)
        slots[table[filled]] = np.flatnonzero(filled.ravel())
        self.storage: Storage = Int8Blocks(packed, centers, filled) if int8 else WholeBlocks(packed, filled)
        self.again = self.storage.again
        # One product gives what a block's best should score: its center's score, and its spread times the query's norm.
        self._centers = variable(np.column_stack([centers, spread]).astype(np.float32), "centers")
        self.slot_rows = variable(table.ravel(), "slot_rows")
        self._slots = variable(slots, "slots")

    def cost(self) -> float:
        # Blocks that are read are written and read again, but mostly in the cache.
        return 4.0 * self._centers.shape[1] * (self.most + 2.0 * self.effort * self.block)

    def best(self, queries: tf.Tensor, count: tf.Tensor | int, depth: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        asked = tf.concat([queries, tf.norm(queries, axis=1, keepdims=True)], axis=1)
        expected = tf.matmul(asked, self._centers, transpose_b=True)
        chosen = tf.math.top_k(expected, self.effort, sorted=False).indices
        found = self.effort * self.block
        scores = tf.reshape(self.storage.rough(queries, chosen), [tf.shape(queries)[0], found])
        values, places = top_k(scores, tf.minimum(count * self.again, found))
        blocks = tf.gather(chosen, places // self.block, batch_dims=1)
        slots = blocks * self.block + places % self.block
        rows = take(self.slot_rows, slots)
        if self.again > 1:
            exact = tf.linalg.matvec(self.storage.vectors(slots), queries)
            depth = None if depth is None else depth * self.again
            rows, values = scored_again(rows, exact, tf.minimum(count, found), depth)
        rest = [[0, 0], [0, tf.maximum(count - found, 0)]]
        return tf.pad(rows, rest, constant_values=-1), tf.pad(values, rest, constant_values=LOWEST)

    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        return self.storage.everything(queries)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        return self.storage.vectors(take(self._slots, rows))
