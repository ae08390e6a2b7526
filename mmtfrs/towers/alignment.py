"""Bringing the modalities of an item together."""

from __future__ import annotations

import itertools

from mmtfrs._keras import tf

_TEMPERATURE = 0.1
_MASKED = -1e9


def alignment_loss(vectors: dict[str, tf.Tensor], presence: tf.Tensor) -> tf.Tensor:
    """The contrast between an item's modalities: for each pair of them, what belongs to one item must be closer than what
    belongs to different ones.

    Args:
        vectors: `{modality: [B, D]}` floating, one row per item.
        presence: `[B, M]` float32, in the order of `vectors`.

    Returns:
        `[] float32`, the sum over pairs of modalities.

    Reference: InfoNCE, van den Oord et al. 2018, arXiv:1807.03748; between modalities as in CLIP, Radford et al. 2021,
    arXiv:2103.00020.
    """
    units = [tf.math.l2_normalize(tf.cast(value, tf.float32), axis=1, epsilon=1e-12) for value in vectors.values()]
    total = tf.constant(0.0)
    for first, second in itertools.combinations(range(len(units)), 2):
        both = presence[:, first] * presence[:, second]
        total += contrast(units[first], units[second], both)
    return total


def contrast(first: tf.Tensor, second: tf.Tensor, both: tf.Tensor) -> tf.Tensor:
    """Symmetric InfoNCE of two `[B, D]` sets of unit vectors, over the rows where `both [B]` is 1; 0 if there are none."""
    logits = tf.matmul(first, second, transpose_b=True) / _TEMPERATURE
    there = both > 0
    own = tf.linalg.diag_part(logits)
    rows = tf.reduce_logsumexp(tf.where(there[None, :], logits, _MASKED), axis=1)
    columns = tf.reduce_logsumexp(tf.where(there[:, None], logits, _MASKED), axis=0)
    losses = 0.5 * (rows + columns) - own
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(there, losses, 0.0)), tf.reduce_sum(both))
