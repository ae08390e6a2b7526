"""The contract of every fusion."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from mmtfrs._keras import keras, tf


class Fusion(keras.layers.Layer, abc.ABC):
    """Modality vectors -> one vector.

    Absent modalities are replaced by a learned null vector and get weight 0; the weights of the present ones sum to 1 (all are
    0 where nothing is present).

    Args:
        modalities: names, in the order of the presence mask.
        dim: size D of the vectors.

    Call arguments:
        vectors: `{modality: [B, D]}` floating.
        presence: `[B, M]` floating, 1 where the modality is there, else 0.

    Returns:
        `(fused [B, D], weights [B, M] float32)`; of a fusion at the decision level, which has `blocks` > 1, `[B, blocks, D]`.
    """

    def __init__(self, modalities: Sequence[str], dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.modalities = list(modalities)
        self.dim = dim

    @property
    def blocks(self) -> int:
        """How many vectors the fusion leaves, each to be scored on its own."""
        return 1

    def build(self, input_shape: tf.TensorShape | None) -> None:
        # Not zeros: behind a ReLU they would get no gradient at first.
        normal = keras.initializers.RandomNormal(stddev=0.05)
        self.null = self.add_weight("null", (len(self.modalities), self.dim), initializer=normal)
        super().build(input_shape)

    def call(
        self, vectors: dict[str, tf.Tensor], presence: tf.Tensor, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        stacked = tf.stack([vectors[name] for name in self.modalities], axis=1)
        mask = tf.cast(presence, stacked.dtype)[..., None]
        absent = tf.cast(self.null, stacked.dtype)
        return self.fuse(stacked * mask + absent * (1 - mask), presence)

    @abc.abstractmethod
    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B, M, D]` with nulls in place, `[B, M]` -> `(fused [B, D], weights [B, M])`."""

    def dense(self, size: int, name: str, **kwargs: Any) -> keras.layers.Dense:
        """A dense layer of this layer's precision."""
        return keras.layers.Dense(size, name=name, dtype=self.dtype_policy, **kwargs)

    def get_config(self) -> dict:
        return {**super().get_config(), "modalities": self.modalities, "dim": self.dim}


def masked_share(scores: tf.Tensor, presence: tf.Tensor) -> tf.Tensor:
    """Nonnegative `[B, M]` scores -> shares of the present modalities: they sum to 1, or are all 0 if none is there."""
    kept = tf.cast(scores, tf.float32) * tf.cast(presence, tf.float32)
    return tf.math.divide_no_nan(kept, tf.reduce_sum(kept, axis=1, keepdims=True))


def masked_softmax(scores: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Softmax over the present modalities.

    Args:
        scores: `[B, ..., M]` floating.
        presence: `[B, M]`, or `[B, ..., M]`.

    Returns:
        `(weights, mixed)`, both `[B, ..., M] float32`: weights are 0 for absent modalities; `mixed` is the same, but uniform
        where nothing is present, so that the null vectors have something to say.
    """
    presence = tf.cast(presence, tf.float32)
    while presence.shape.rank < scores.shape.rank:
        presence = presence[:, None]
    # Before the softmax, not after: a missing modality must not take weight from the others.
    masked = tf.where(presence > 0, tf.cast(scores, tf.float32), tf.float32.min)
    mixed = tf.nn.softmax(masked, axis=-1)
    return mixed * presence, mixed


def mean_present(vectors: tf.Tensor, presence: tf.Tensor) -> tf.Tensor:
    """`[B, M, D]`, `[B, M]` -> `[B, D]`: mean over the present modalities, over all of them where none is."""
    _, mixed = masked_softmax(tf.zeros_like(presence), presence)
    return tf.einsum("bm,bmd->bd", tf.cast(mixed, vectors.dtype), vectors)
