"""Approximate search in the blocks whose centres are nearest to the query."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.index.clustering import make_blocks
from mmtfrs.index.search import LOWEST, Search, top_k

_CHUNK = 512  # blocks decoded at a time where all are asked for
_AGAIN = 2  # times as many as are wanted are scored again with the full precision


class PartitionSearch(Search):
    """Vectors lie in dense blocks; a query looks into the `probes` blocks of which the centre scores highest.

    Plain gathers, matrix products and top_k of static shapes: XLA compiles it, and a stock TF Serving runs it.

    Args:
        vectors: `[N, D] float32`.
        probes: blocks looked into.
        block: rows of a block.
        int8: keep the distances from the centre as 8 bits for the search and 8 more for the final scores, instead of float32.
        blocks: `[blocks, block] int32` from `make_blocks`; made if None.

    Reference: inverted files with residuals, Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, TPAMI
    2011, with scalar instead of product quantization.
    """

    def __init__(
        self, vectors: np.ndarray, probes: int, block: int = 128, int8: bool = False, blocks: np.ndarray | None = None
    ) -> None:
        super().__init__(name="partitions")
        vectors = np.asarray(vectors, np.float32)
        table = make_blocks(vectors, block) if blocks is None else blocks
        self.size, self.int8 = len(vectors), int8
        self.blocks, self.block = table.shape
        self.most, self.effort = self.blocks, min(probes, self.blocks)
        filled = table >= 0
        packed = np.where(filled[:, :, None], vectors[np.maximum(table, 0)], 0.0)
        centres = packed.sum(axis=1) / filled.sum(axis=1, keepdims=True)
        slots = np.empty(self.size, np.int32)
        slots[table[filled]] = np.flatnonzero(filled.ravel())
        if int8:
            packed -= centres[:, None] * filled[:, :, None]
            steps = np.maximum(np.abs(packed).max(axis=(1, 2)), 1e-30) / 127.0
            coarse = np.rint(packed / steps[:, None, None])
            fine = np.rint((packed / steps[:, None, None] - coarse) * 254.0)
            self._steps = _variable(steps.astype(np.float32), "steps")
            self._coarse = _variable(coarse.astype(np.int8), "coarse")
            self._fine = _variable(fine.astype(np.int8), "fine")
        else:
            self._packed = _variable(packed, "packed")
        self._centres = _variable(centres.astype(np.float32), "centres")
        self.slot_rows = _variable(table.ravel(), "slot_rows")
        self._slots = _variable(slots, "slots")

    def cost(self):
        width = self._centres.shape[1]
        return 4.0 * width * (self.blocks + self.effort * self.block * (3.25 if self.int8 else 3.0))

    def best(self, queries, count):
        near, chosen = tf.math.top_k(tf.matmul(queries, self._centres, transpose_b=True), self.effort)
        scores = self._block_scores(queries, chosen, near)
        batch = tf.shape(queries)[0]
        rows = tf.gather(tf.reshape(self.slot_rows, [self.blocks, self.block]), chosen)
        scores = tf.reshape(tf.where(rows >= 0, scores, LOWEST), [batch, self.effort * self.block])
        rows = tf.reshape(rows, [batch, self.effort * self.block])
        found = self.effort * self.block
        values, places = top_k(scores, tf.minimum(count * _AGAIN if self.int8 else count, found))
        rows = tf.gather(rows, places, batch_dims=1)
        if self.int8:
            exact = tf.linalg.matvec(self.vectors(tf.maximum(rows, 0)), queries)
            values, order = tf.math.top_k(tf.where(values > LOWEST, exact, LOWEST), tf.minimum(count, found))
            rows = tf.gather(rows, order, batch_dims=1)
        rest = [[0, 0], [0, tf.maximum(count - found, 0)]]
        return tf.pad(rows, rest, constant_values=-1), tf.pad(values, rest, constant_values=LOWEST)

    def _block_scores(self, queries: tf.Tensor, chosen: tf.Tensor, near: tf.Tensor) -> tf.Tensor:
        """`[B, D]`, `[B, P]` blocks and their centres' scores -> `[B, P, block]`."""
        if not self.int8:
            return _matvec(tf.gather(self._packed, chosen), queries)
        away = _matvec(tf.cast(tf.gather(self._coarse, chosen), tf.float32), queries)
        return away * tf.gather(self._steps, chosen)[:, :, None] + near[:, :, None]

    def scores(self, queries):
        if self.int8:
            starts = tf.range(0, self.blocks, _CHUNK)
            parts = tf.map_fn(
                lambda start: tf.matmul(self._decode_blocks(start), queries, transpose_b=True),
                starts,
                fn_output_signature=tf.TensorSpec([_CHUNK * self.block, None], tf.float32),
            )
            found = tf.transpose(tf.reshape(parts, [-1, tf.shape(queries)[0]])[: self.blocks * self.block])
        else:
            found = tf.matmul(queries, self._flat(self._packed), transpose_b=True)
        return tf.where(self.slot_rows[None, :] >= 0, found, LOWEST)

    def vectors(self, rows):
        slots = tf.gather(self._slots, rows)
        if not self.int8:
            return tf.gather(self._flat(self._packed), slots)
        coarse, fine = tf.gather(self._flat(self._coarse), slots), tf.gather(self._flat(self._fine), slots)
        return self._decode(coarse, fine, slots // self.block)

    def _flat(self, packed: tf.Variable) -> tf.Tensor:
        """`[blocks, block, D]` -> `[S, D]`; nothing is copied."""
        return tf.reshape(packed, [self.blocks * self.block, -1])

    def _decode_blocks(self, start: tf.Tensor) -> tf.Tensor:
        chosen = tf.minimum(start + tf.range(_CHUNK), self.blocks - 1)
        decoded = self._decode(tf.gather(self._coarse, chosen), tf.gather(self._fine, chosen), chosen[:, None])
        return tf.reshape(decoded, [_CHUNK * self.block, -1])

    def _decode(self, coarse: tf.Tensor, fine: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        away = tf.cast(coarse, tf.float32) + tf.cast(fine, tf.float32) / 254.0
        return away * tf.expand_dims(tf.gather(self._steps, block), -1) + tf.gather(self._centres, block)


def _matvec(blocks: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """`[B, P, S, D]`, `[B, D]` -> `[B, P, S]`, as one product per query."""
    shape = tf.shape(blocks)
    flat = tf.reshape(blocks, [shape[0], shape[1] * shape[2], blocks.shape[3]])
    return tf.reshape(tf.linalg.matvec(flat, queries), shape[:3])


def _variable(value: np.ndarray, name: str) -> tf.Variable:
    return tf.Variable(value, trainable=False, name=name)
