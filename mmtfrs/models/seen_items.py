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
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, user_rows: int, item_rows: int) -> None:
        kept = (users > 0) & (items > 0)
        users, items = users[kept], items[kept]
        self.dense = user_rows * item_rows <= _DENSE
        if self.dense:
            table = np.zeros((user_rows, item_rows), bool)
            table[users, items] = True
            self._table = tf.constant(table)
        else:
            counts = np.bincount(users, minlength=user_rows)
            self._starts = tf.constant(np.concatenate([[0], np.cumsum(counts)]), tf.int32)
            self._items = tf.constant(items[np.argsort(users, kind="stable")], tf.int32)

    def __call__(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows, `[C]` item rows -> `[B, C] bool`, whether each user took each item."""
        if self.dense:
            return tf.gather(tf.gather(self._table, users), items, axis=1)
        own = tf.ragged.range(tf.gather(self._starts, users), tf.gather(self._starts, users + 1))
        taken = tf.gather(self._items, own.flat_values)
        asked = tf.sort(items)
        place = tf.minimum(tf.searchsorted(asked, taken), tf.shape(asked)[0] - 1)
        pairs = tf.stack([tf.cast(own.value_rowids(), tf.int32), place], axis=1)
        found = tf.boolean_mask(pairs, tf.gather(asked, place) == taken)
        # What is asked about twice is found where it stands first.
        first = tf.scatter_nd(found, tf.ones(tf.shape(found)[:1], tf.int32), [tf.shape(users)[0], tf.shape(items)[0]]) > 0
        return tf.ensure_shape(tf.gather(first, tf.searchsorted(asked, items), axis=1), [users.shape[0], items.shape[0]])
