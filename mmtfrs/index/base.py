"""What every way of finding the best candidates offers."""

from __future__ import annotations

import abc

from mmtfrs._keras import tf

LOWEST = tf.float32.min
_GROUP = 64


class Search(tf.Module, abc.ABC):
    """Vectors, found again by their inner product with a query.

    Vectors are kept in slots, in whatever order suits the search; `rows` are their numbers in the catalog.

    Attributes:
        size: how many vectors there are.
        slot_rows: `[S] int32` the row in each slot, -1 for padding; None if slots are rows.
        effort, most: how much of what there is a query looks at.
        again: how many times as many as are wanted are scored again, exactly; 1 where the first scores are exact.
    """

    size: int
    slot_rows: tf.Variable | None = None
    effort = 1  # what recall depends on: blocks, leaves or directions looked at; read when a graph is traced
    most = 1
    again = 1

    @abc.abstractmethod
    def cost(self) -> float:
        """Bytes that one query reads and writes, about."""

    @abc.abstractmethod
    def best(self, queries: tf.Tensor, count: tf.Tensor | int, depth: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B, D] float32` queries -> `(rows [B, count] int32, scores [B, count] float32)`, best first.

        Where fewer are found the rest has row -1 and the lowest float32. `count` is at most `size`. `depth [B] int32`, at most
        `count`, is how many each row wants: what is scored again for it, and so its answer, does not depend on the others'.
        """

    @abc.abstractmethod
    def scores(self, queries: tf.Tensor) -> tf.Tensor:
        """`[B, D]` -> `[B, S] float32`: every slot's score, exactly; the lowest float32 for padding."""

    @abc.abstractmethod
    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """`[...] int32` rows, all of them in the catalog -> `[..., D] float32`."""

    def rows_of(self, slots: tf.Tensor) -> tf.Tensor:
        """`[...] int32` slots -> rows."""
        return slots if self.slot_rows is None else take(self.slot_rows, slots)

    def nbytes(self) -> int:
        """Memory of the vectors and of what finds them."""
        return sum(variable.dtype.size * variable.shape.num_elements() for variable in self.variables)


def scored_again(
    rows: tf.Tensor, scores: tf.Tensor, count: tf.Tensor | int, depth: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B, S]` rows, the roughly best first, and exact scores -> the best `count` of the first `depth [B]`; None: of all."""
    good = rows >= 0
    if depth is not None:
        good &= tf.range(tf.shape(rows)[1])[None] < depth[:, None]
    values, order = tf.math.top_k(tf.where(good, scores, LOWEST), count)
    return tf.where(values > LOWEST, tf.gather(rows, order, batch_dims=1), -1), values


def take(variable: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """`[N, ...]` and `[...]` int32 rows -> these rows.

    `tf.gather` of a variable would turn it, for good, into one that is copied whenever it is read as a whole.
    """
    return tf.gather(variable.value(), rows)


def top_k(scores: tf.Tensor, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """As `tf.math.top_k`, ties and all, but many times faster over long rows.

    The best k lie in the k groups with the highest maxima: only these are sorted.

    Args:
        scores: `[B, N] float32`.
        k: at most N.

    Returns:
        `(values [B, k] float32, indices [B, k] int32)`.
    """
    length = scores.shape[1]
    if length is None or length < 256 * _GROUP:
        return tf.math.top_k(scores, k)
    groups = -(-length // _GROUP)
    if length % _GROUP:
        scores = tf.pad(scores, [[0, 0], [0, groups * _GROUP - length]], constant_values=LOWEST)
    grouped = tf.reshape(scores, [-1, groups, _GROUP])
    best = tf.math.top_k(tf.reduce_max(grouped, axis=2), tf.minimum(k, groups), sorted=False).indices
    best = tf.sort(best, axis=1)  # in the order of the rows, so that of equal scores the first one wins
    few = tf.reshape(tf.gather(grouped, best, batch_dims=1), [tf.shape(scores)[0], -1])
    values, places = tf.math.top_k(few, k)
    group = tf.gather(best, places // _GROUP, batch_dims=1)
    return values, group * _GROUP + places % _GROUP
