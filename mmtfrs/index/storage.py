"""How the vectors of a partitioned index are kept: as they are, or in 8 + 8 bits."""

from __future__ import annotations

import abc

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.index.base import LOWEST, take

_CHUNK = 512  # blocks decoded at a time where all are asked for


class Storage(tf.Module, abc.ABC):
    """Blocks of vectors.

    Attributes:
        again: how many times as many as are wanted must be scored again with `vectors`; 1 where rough scores are exact.
    """

    again = 1

    @abc.abstractmethod
    def rough(self, queries: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        """`[B, D]` queries, `[B, P]` blocks -> `[B, P, block] float32` scores; the lowest float32 for padding."""

    @abc.abstractmethod
    def vectors(self, slots: tf.Tensor) -> tf.Tensor:
        """`[...] int32` -> `[..., D] float32`."""

    @abc.abstractmethod
    def everything(self, queries: tf.Tensor) -> tf.Tensor:
        """`[B, D]` -> `[B, blocks * block] float32` exact scores; the lowest float32 for padding."""


class WholeBlocks(Storage):
    """Vectors as they are, with one number more that a score needs no mask for: 0, and the lowest float32 for padding.

    Args:
        packed: `[blocks, block, D]`, zeros for padding.
        filled: `[blocks, block] bool`.
    """

    def __init__(self, packed: np.ndarray, filled: np.ndarray) -> None:
        super().__init__(name="whole")
        lowest = np.where(filled, np.float32(0.0), LOWEST)
        self._packed = variable(np.concatenate([packed, lowest[:, :, None]], axis=2), "packed")

    def rough(self, queries: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        return _matvec(take(self._packed, chosen), _with_one(queries))

    def vectors(self, slots: tf.Tensor) -> tf.Tensor:
        return tf.gather(_flat(self._packed), slots)[..., :-1]

    def everything(self, queries: tf.Tensor) -> tf.Tensor:
        return tf.matmul(_with_one(queries), _flat(self._packed), transpose_b=True)


class Int8Blocks(Storage):
    """Distances from the center as 8 bits for the rough scores, and 8 more for the final ones; one step size per block.

    Args:
        packed: `[blocks, block, D]`.
        centers: `[blocks, D]`.
        filled: `[blocks, block] bool`.
    """

    again = 2

    def __init__(self, packed: np.ndarray, centers: np.ndarray, filled: np.ndarray) -> None:
        super().__init__(name="int8")
        away = packed - centers[:, None]
        away[~filled] = 0.0
        steps = np.maximum(np.abs(away).max(axis=(1, 2)), 1e-30) / 127.0
        away /= steps[:, None, None]
        coarse = np.rint(away)
        self._centers = variable(centers, "centers")
        self._steps = variable(steps.astype(np.float32), "steps")
        self._coarse = variable(coarse.astype(np.int8), "coarse")
        self._fine = variable(np.rint((away - coarse) * 254.0).astype(np.int8), "fine")
        self._filled = variable(filled.sum(axis=1).astype(np.int32), "filled")
        self._blocks, self._block, self._dim = packed.shape

    def rough(self, queries: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        away = _matvec(tf.cast(take(self._coarse, chosen), tf.float32), queries)
        centered = tf.linalg.matvec(take(self._centers, chosen), queries)
        scores = away * take(self._steps, chosen)[:, :, None] + centered[:, :, None]
        return tf.where(self._there(chosen), scores, LOWEST)

    def vectors(self, slots: tf.Tensor) -> tf.Tensor:
        coarse, fine = tf.gather(_flat(self._coarse), slots), tf.gather(_flat(self._fine), slots)
        return self._decode(coarse, fine, slots // self._block)

    def everything(self, queries: tf.Tensor) -> tf.Tensor:
        def chunk(start: tf.Tensor) -> tf.Tensor:
            chosen = tf.minimum(start + tf.range(_CHUNK), self._blocks - 1)
            decoded = self._decode(take(self._coarse, chosen), take(self._fine, chosen), chosen[:, None])
            scores = tf.matmul(tf.reshape(decoded, [_CHUNK * self._block, self._dim]), queries, transpose_b=True)
            return tf.where(tf.reshape(self._there(chosen), [-1, 1]), scores, LOWEST)

        shape = tf.TensorSpec([_CHUNK * self._block, None], tf.float32)
        parts = tf.map_fn(chunk, tf.range(0, self._blocks, _CHUNK), fn_output_signature=shape)
        return tf.transpose(tf.reshape(parts, [-1, tf.shape(queries)[0]])[: self._blocks * self._block])

    def _there(self, chosen: tf.Tensor) -> tf.Tensor:
        """`[...]` blocks -> `[..., block] bool`: what is no padding, which stands last in a block."""
        return np.arange(self._block) < tf.expand_dims(take(self._filled, chosen), -1)

    def _decode(self, coarse: tf.Tensor, fine: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        away = tf.cast(coarse, tf.float32) + tf.cast(fine, tf.float32) / 254.0
        return away * tf.expand_dims(take(self._steps, block), -1) + take(self._centers, block)


def variable(value: np.ndarray, name: str) -> tf.Variable:
    """Data that is saved with the index and never trained."""
    return tf.Variable(value, trainable=False, name=name)


def _with_one(queries: tf.Tensor) -> tf.Tensor:
    return tf.pad(queries, [[0, 0], [0, 1]], constant_values=1.0)


def _flat(packed: tf.Variable) -> tf.Tensor:
    """`[blocks, block, n]` -> `[blocks * block, n]`; nothing is copied."""
    return tf.reshape(packed.value(), [-1, packed.shape[2]])


def _matvec(blocks: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """`[B, P, S, n]`, `[B, n]` -> `[B, P, S]`, as one product per query."""
    shape = tf.shape(blocks)
    flat = tf.reshape(blocks, [shape[0], shape[1] * shape[2], blocks.shape[3]])
    return tf.reshape(tf.linalg.matvec(flat, queries), shape[:3])
