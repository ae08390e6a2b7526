"""Summing rows of a table, of many bags at once."""

from __future__ import annotations

from typing import NamedTuple

from mmtfrs._keras import tf
from mmtfrs.utils.static_shapes import static_shapes

DENSE = 4096  # rows of a table up to which rows are counted and multiplied
_LARGE = 1 << 16  # rows of a variable from which on a copy of it costs more than gathering


class Bags(NamedTuple):
    """Attributes:

    items: `[T] int32` rows; 0 adds nothing.
    owners: `[T] int32`, sorted: which bag each is in.
    number: B, how many bags there are.
    whole: `[B] float32`, how many items each stands for, of which these may be a draw; None: those that are there.
    """

    items: tf.Tensor
    owners: tf.Tensor
    number: int | tf.Tensor
    whole: tf.Tensor | None = None

    @classmethod
    def of(cls, rows: tf.Tensor, whole: tf.Tensor | None = None) -> Bags:
        """Of `[B, H] int32`, 0 for padding, which is left out unless shapes must be known."""
        count = rows.shape[0] or tf.shape(rows)[0]
        if static_shapes():
            owners = tf.broadcast_to(tf.range(count)[:, None], tf.shape(rows))
            return cls(tf.reshape(rows, [-1]), tf.reshape(owners, [-1]), count, whole)
        there = tf.where(rows > 0)
        return cls(tf.gather_nd(rows, there), tf.cast(there[:, 0], tf.int32), count, whole)

    def without(self, hidden: tf.Tensor) -> Bags:
        """Without the items that are true in `hidden [T]`."""
        if static_shapes():
            return self._replace(items=tf.where(hidden, 0, self.items))
        there = tf.where(~hidden)[:, 0]
        return self._replace(items=tf.gather(self.items, there), owners=tf.gather(self.owners, there))

    def total(self, values: tf.Tensor) -> tf.Tensor:
        """`[T]` or `[T, D]`, of each item -> `[B]` or `[B, D]`."""
        return tf.math.unsorted_segment_sum(values, self.owners, self.number)

    @property
    def sizes(self) -> tf.Tensor:
        """`[B] float32`: how many items that are not 0 each has."""
        return self.total(tf.cast(self.items > 0, tf.float32))


def sum_rows(table: tf.Tensor | tf.Variable, bags: Bags, sparse: bool = True) -> tf.Tensor:
    """`out[b]`, the sum of `table[item]` over the items of bag `b`.

    Args:
        table: `[N, D]` floating.
        bags: of its rows; without 0 (see `Bags.without`), unless row 0 is all zeros.
        sparse: whether the bags have few of the rows.

    Returns:
        `[B, D]`. Where N is large and few rows are asked for, the gradient with respect to the table is sparse.
    """
    size = table.shape[0]
    if size <= DENSE:  # one matrix product, which XLA knows too; the counts are shared by all tables of the same rows
        places, cells = bags.owners * size + bags.items, bags.number * size
        counts = tf.raw_ops.DenseBincount(input=places, size=cells, weights=tf.zeros([0], table.dtype), binary_output=False)
        return tf.matmul(tf.reshape(counts, [bags.number, size])[:, 1:], tf.convert_to_tensor(table)[1:])
    if static_shapes():
        return bags.total(tf.gather(table, bags.items) * tf.cast(bags.items > 0, table.dtype)[:, None])
    if sparse and isinstance(table, tf.Variable) and size > _LARGE:
        # A variable whose rows were written one by one is copied whenever it is read as a whole.
        return bags.total(tf.gather(table, bags.items))
    # Adds rows without gathering [T, D] first: far faster on a CPU, but unknown to XLA.
    total = tf.sparse.segment_sum(
        tf.convert_to_tensor(table), bags.items, bags.owners, num_segments=bags.number, sparse_gradient=sparse
    )
    return tf.ensure_shape(total, [bags.number if isinstance(bags.number, int) else None, table.shape[1]])
