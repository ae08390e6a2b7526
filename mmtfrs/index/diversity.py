"""Lists whose items are not all alike."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.index.base import LOWEST


def mmr_order(scores: tf.Tensor, vectors: tf.Tensor, diversity: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Maximal marginal relevance: each place goes to the candidate with the best `(1 - d) relevance - d likeness`.

    Relevance is the score, brought to [0, 1] over the row's candidates; likeness is the highest cosine with what is chosen
    already, 0 for the first place.

    Args:
        scores: `[B, S] float32`, best first; the lowest float32 for what is no candidate.
        vectors: `[B, S, D] float32`.
        diversity: `[B] float32` d, in [0, 1]; 0 leaves the order as it is.
        count: places to fill, at most S.

    Returns:
        `[B, count] int32` positions in the row.

    Reference: Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents, SIGIR 1998.
    """
    there = scores > LOWEST
    lowest = tf.reduce_min(tf.where(there, scores, tf.float32.max), axis=1, keepdims=True)
    spread = tf.maximum(scores[:, :1] - lowest, 1e-9)
    relevance = (1.0 - diversity[:, None]) * (scores - lowest) / spread
    units = tf.math.l2_normalize(vectors, axis=2, epsilon=1e-12)
    batch, size = tf.shape(scores)[0], tf.shape(scores)[1]

    def step(
        place: tf.Tensor, chosen: tf.TensorArray, likeness: tf.Tensor, free: tf.Tensor
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.Tensor, tf.Tensor]:
        worth = tf.where(there, relevance - diversity[:, None] * likeness, -1e6)
        best = tf.argmax(tf.where(free, worth, -1e9), axis=1, output_type=tf.int32)
        picked = tf.gather(units, best, batch_dims=1)
        cosine = tf.linalg.matvec(units, picked)
        likeness = tf.where(place == 0, cosine, tf.maximum(likeness, cosine))
        taken = tf.one_hot(best, size, on_value=True, off_value=False, dtype=tf.bool)
        return place + 1, chosen.write(place, best), likeness, free & ~taken

    chosen = tf.TensorArray(tf.int32, size=count, element_shape=[None])
    start = (0, chosen, tf.zeros_like(scores), tf.fill([batch, size], True))
    _, chosen, _, _ = tf.while_loop(lambda place, *_: place < count, step, start, maximum_iterations=count)
    return tf.transpose(chosen.stack())
