"""Summing rows of a table."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.utils.static_shapes import static_shapes

DENSE = 4096  # rows of a table up to which rows are counted and multiplied
_LARGE = 1 << 16  # rows of a variable from which on a copy of it costs more than gathering


def sum_rows(table: tf.Tensor | tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """`out[b] = sum_h table[rows[b, h]]` over the rows that are not 0, which is padding.

    Args:
        table: `[N, D]` floating.
        rows: `[B, H]` int32.

    Returns:
        `[B, D]`. Where N is large, the gradient with respect to the table is sparse, one slice per distinct row.
    """
    size = table.shape[0]
    if size <= DENSE:  # one matrix product, which XLA knows too; the counts are shared by all tables of the same rows
        counts = tf.raw_ops.DenseBincount(input=rows, size=size, weights=tf.zeros([0], table.dtype), binary_output=False)
        return tf.matmul(tf.ensure_shape(counts, [rows.shape[0], size])[:, 1:], tf.convert_to_tensor(table)[1:])
    if static_shapes():
        return tf.reduce_sum(tf.gather(table, rows) * tf.cast(rows > 0, table.dtype)[..., None], axis=1)
    # Adds rows without gathering [B, H, D] first, and without the padding: far faster on a CPU, but unknown to XLA.
    there = tf.where(rows > 0)
    if isinstance(table, tf.Variable) and size > _LARGE:
        # A variable whose rows were written one by one is copied whenever it is read as a whole.
        picked = tf.gather(table, tf.gather_nd(rows, there))
        return tf.math.unsorted_segment_sum(picked, there[:, 0], tf.shape(rows)[0])
    total = tf.sparse.segment_sum(
        tf.convert_to_tensor(table),
        tf.gather_nd(rows, there),
        tf.cast(there[:, 0], tf.int32),
        num_segments=tf.shape(rows)[0],
        sparse_gradient=True,
    )
    return tf.ensure_shape(total, [rows.shape[0], table.shape[1]])
