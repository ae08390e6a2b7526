"""Bringing the modalities of an item together."""

from __future__ import annotations

import itertools

from mmtfrs._keras import keras, tf

_TEMPERATURE = 0.1
_MASKED = -1e9


class Alignment(keras.layers.Layer):
    """Adds a contrast between an item's modalities to the loss: for each pair of modalities, what belongs to one item must
    be closer than what belongs to different ones.

    Args:
        weight: of the contrast in the loss.

    Call arguments:
        vectors: `{modality: [B, D]}` floating, one row per item.
        presence: `[B, M]` float32, in the order of `vectors`.

    Reference: InfoNCE, van den Oord et al. 2018, arXiv:1807.03748; between modalities as in CLIP, Radford et al. 2021,
    arXiv:2103.00020.
    """

    def __init__(self, weight: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, vectors: dict[str, tf.Tensor], presence: tf.Tensor) -> tf.Tensor:
        units = [tf.math.l2_normalize(tf.cast(value, tf.float32), axis=1, epsilon=1e-12) for value in vectors.values()]
        total = tf.constant(0.0)
        for first, second in itertools.combinations(range(len(units)), 2):
            both = presence[:, first] * presence[:, second]
            total += contrast(units[first], units[second], both)
        self.add_loss(self.weight * total)
        return total

    def get_config(self) -> dict:
        return {**super().get_config(), "weight": self.weight}


def contrast(first: tf.Tensor, second: tf.Tensor, both: tf.Tensor) -> tf.Tensor:
    """Symmetric InfoNCE of two `[B, D]` sets of unit vectors, over the rows where `both [B]` is 1; 0 if there are none."""
    logits = tf.matmul(first, second, transpose_b=True) / _TEMPERATURE
    there = both > 0
    own = tf.linalg.diag_part(logits)
    rows = tf.reduce_logsumexp(tf.where(there[None, :], logits, _MASKED), axis=1)
    columns = tf.reduce_logsumexp(tf.where(there[:, None], logits, _MASKED), axis=0)
    losses = 0.5 * (rows + columns) - own
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(there, losses, 0.0)), tf.reduce_sum(both))
