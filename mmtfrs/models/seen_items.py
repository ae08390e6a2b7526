"""Which items a user is known to have taken, looked up for whole batches on the device."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.utils.static_shapes import static_shapes

_DENSE = 1 << 27  # users x items up to which one byte per pair is kept: 128 MiB
_FILTER = 1 << 15  # places that items are told apart by before they are looked for
_STATIC = 128  # newest items of each user that are looked up where shapes must be known


class KnownItems:
    """Pairs of user and item rows.

    Each user's items are looked up among those that are asked about, so that a batch costs what its users took. Small logs are
    a table of users by items, where always the same items are asked about, or shapes must be known.

    Args:
        taken: what each user took, by user row, oldest first; row 0 took nothing.
        item_rows: number of rows, row 0 included.
        usual: `[U]` item rows, for `of_usual`; none if None.
    """

    def __init__(self, taken: ItemLists, item_rows: int, usual: tf.Tensor | None = None) -> None:
        static = static_shapes()
        self.dense = (static or usual is not None) and len(taken) * item_rows <= _DENSE
        self._newest = None
        if self.dense:
            table = np.zeros((len(taken), item_rows), bool)
            table[taken.owners, taken.items] = True
            self._table = tf.constant(table)
            self._usual = None if usual is None else tf.gather(self._table, usual, axis=1)
        elif static:
            self._newest = tf.constant(taken.newest(min(_STATIC, int(taken.counts.max()))))
        else:
            self._starts, self._items = tf.constant(taken.starts, tf.int32), tf.constant(taken.items, tf.int32)

    def of_usual(self, users: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows -> `[B, U] bool`, as for the usual items in their order: rows of a table, which is the faster way."""
        return tf.gather(self._usual, users)

    def __call__(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows, `[C]` item rows -> `[B, C] bool`, whether each user took each item."""
        if self.dense:
            return tf.gather(tf.gather(self._table, users), items, axis=1)
        if self._newest is not None:
            found = tf.reduce_any(tf.gather(self._newest, users)[:, :, None] == items[None, None], axis=1)
            return found & (items > 0)[None]
        own = tf.ragged.range(tf.gather(self._starts, users), tf.gather(self._starts, users + 1))
        taken = tf.gather(self._items, own.flat_values)
        # Few of them are asked about, which a small table tells of nearly all others.
        asked = tf.scatter_nd(items[:, None] % _FILTER, tf.ones_like(items), [_FILTER])
        likely = tf.where(tf.gather(asked, taken % _FILTER) > 0)[:, 0]
        taken, rows = tf.gather(taken, likely), tf.searchsorted(own.row_splits, likely, "right") - 1
        order = tf.argsort(items)
        asked = tf.gather(items, order)
        first, behind = (tf.searchsorted(asked, taken, side) for side in ("left", "right"))
        places = tf.ragged.range(first, behind)  # an item may be asked about several times
        found = tf.stack([tf.repeat(rows, behind - first), tf.gather(order, places.flat_values)], axis=1)
        nothing = tf.zeros([tf.shape(users)[0], tf.shape(items)[0]], tf.bool)
        mask = tf.tensor_scatter_nd_update(nothing, found, tf.ones(tf.shape(found)[:1], tf.bool))
        return tf.ensure_shape(mask, [users.shape[0], items.shape[0]])
