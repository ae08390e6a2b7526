"""Scores by votes: what cannot be one inner product."""

from __future__ import annotations

from mmtfrs._keras import tf

VOTES = 100  # length of the list that each block votes for


def votes(queries: tf.Tensor, candidates: tf.Tensor, blocks: int) -> tf.Tensor:
    """Each block ranks the catalog and gives its best item 1 vote, the next a little less, down to 0 after 100 items.

    Args:
        queries: `[B, W]`, blocks side by side.
        candidates: `[N, W]`.
        blocks: number of blocks.

    Returns:
        `[B, N] float32`: the sum of the votes, at most `blocks`. Below everything that got votes, items follow in the order
        of their summed scores, which are squeezed into less than the smallest difference of votes.

    Reference: truncated Borda counts, Aslam and Montague, Models for Metasearch, SIGIR 2001.
    """
    size = tf.shape(candidates)[0]
    depth = tf.minimum(VOTES, size)
    rows = tf.range(tf.shape(queries)[0])[:, None]
    points = 1.0 - tf.range(tf.cast(depth, tf.float32)) / tf.cast(depth, tf.float32)
    total = tf.zeros([tf.shape(queries)[0], size])
    ties = tf.zeros_like(total)
    for query, candidate in zip(tf.split(queries, blocks, axis=1), tf.split(candidates, blocks, axis=1), strict=True):
        scores = tf.matmul(query, candidate, transpose_b=True)
        ties += scores
        best = tf.math.top_k(scores, depth).indices
        places = tf.stack([tf.broadcast_to(rows, tf.shape(best)), best], axis=2)
        total = tf.tensor_scatter_nd_add(total, places, tf.broadcast_to(points, tf.shape(best)))
    return total + 0.001 * tf.tanh(ties / (2.0 * blocks))
