"""Which items a user is known to have taken, looked up for whole batches on the device."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf

_DENSE = 1 << 27  # users x items up to which one byte per pair is kept: 128 MiB


class KnownItems:
    """Pairs of user and item rows.

    Small logs are a table of users by items. Of larger ones each user's items are looked up among those that are asked about,
    so that a batch costs what its users took.

    Args:
        users, items: `[n] int32` rows of the log.
        user_rows, item_rows: number of rows, row 0 included; row 0 has no known items.
        usual: `[U]` item rows, for `of_usual`; none if None.
    """

    def __init__(
        self, users: np.ndarray, items: np.ndarray, user_rows: int, item_rows: int, usual: tf.Tensor | None = None
    ) -> None:
        kept = (users > 0) & (items > 0)
        users, items = users[kept], items[kept]
        self.dense = user_rows * item_rows <= _DENSE
        if self.dense:
            table = np.zeros((user_rows, item_rows), bool)
            table[users, items] = True
            self._table = tf.constant(table)
            self._usual = None if usual is None else tf.gather(self._table, usual, axis=1)
        else:
            counts = np.bincount(users, minlength=user_rows)
            self._starts = tf.constant(np.concatenate([[0], np.cumsum(counts)]), tf.int32)
            self._items = tf.constant(items[np.argsort(users, kind="stable")], tf.int32)

    def of_usual(self, users: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows -> `[B, U] bool`, as for the usual items in their order: rows of a table, which is the faster way."""
        return tf.gather(self._usual, users)

    def __call__(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows, `[C]` item rows -> `[B, C] bool`, whether each user took each item."""
        if self.dense:
            return tf.gather(tf.gather(self._table, users), items, axis=1)
        own = tf.ragged.range(tf.gather(self._starts, users), tf.gather(self._starts, users + 1))
        taken, rows = tf.gather(self._items, own.flat_values), tf.cast(own.value_rowids(), tf.int32)
        order = tf.argsort(items)
        asked = tf.gather(items, order)
        first, behind = (tf.searchsorted(asked, taken, side) for side in ("left", "right"))
        places = tf.ragged.range(first, behind)  # an item may be asked about several times
        found = tf.stack([tf.repeat(rows, behind - first), tf.gather(order, places.flat_values)], axis=1)
        nothing = tf.zeros([tf.shape(users)[0], tf.shape(items)[0]], tf.bool)
        mask = tf.tensor_scatter_nd_update(nothing, found, tf.ones(tf.shape(found)[:1], tf.bool))
        return tf.ensure_shape(mask, [users.shape[0], items.shape[0]])
