"""Which items a user is known to have taken, looked up for whole batches on the device."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf

_DENSE = 1 << 27  # users x items up to which one byte per pair is kept: 128 MiB
_BITS_PER_PAIR = 24  # of the hashed table: two probes wrongly find 0.7 % of the other pairs
_MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)


class KnownItems:
    """Pairs of user and item rows.

    Small logs are an exact table of users by items. Of larger ones, each pair sets two bits of a hashed table (Bloom,
    Space/Time
    Trade-offs in Hash Coding with Allowable Errors, CACM 1970): no known pair is ever missed, and a pair that is not known is
    taken for one in less than one of a hundred cases, which only costs the loss a negative.

    Args:
        users, items: `[n] int32` rows of the log.
        user_rows, item_rows: number of rows, row 0 included; row 0 has no known items.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, user_rows: int, item_rows: int) -> None:
        self.item_rows = item_rows
        kept = (users > 0) & (items > 0)
        users, items = users[kept].astype(np.int64), items[kept].astype(np.int64)
        self.exact = user_rows * item_rows <= _DENSE
        if self.exact:
            table = np.zeros((user_rows, item_rows), bool)
            table[users, items] = True
            self._table = tf.constant(table)
        else:
            self.bits = int(np.ceil(np.log2(max(len(users), 1) * _BITS_PER_PAIR)))
            hashed = np.zeros(1 << (self.bits - 3), np.uint8)
            for mix in _MIX:
                place = (users * item_rows + items).astype(np.uint64) * np.uint64(mix) >> np.uint64(64 - self.bits)
                np.bitwise_or.at(
                    hashed, (place >> np.uint64(3)).astype(np.int64), (1 << (place & np.uint64(7))).astype(np.uint8)
                )
            self._table = tf.constant(hashed)

    def __call__(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows, `[C]` item rows -> `[B, C] bool`, whether each user took each item."""
        if self.exact:
            return tf.gather(tf.gather(self._table, users), items, axis=1)
        pairs = tf.cast(users, tf.uint64)[:, None] * tf.constant(self.item_rows, tf.uint64)
        pairs += tf.cast(items, tf.uint64)[None]
        found = tf.broadcast_to(tf.cast(users, tf.int32)[:, None] > 0, tf.shape(pairs))
        for mix in _MIX:
            place = tf.bitwise.right_shift(pairs * tf.constant(mix, tf.uint64), tf.constant(64 - self.bits, tf.uint64))
            byte = tf.gather(self._table, tf.cast(tf.bitwise.right_shift(place, tf.constant(3, tf.uint64)), tf.int64))
            bit = tf.cast(tf.bitwise.bitwise_and(place, tf.constant(7, tf.uint64)), tf.uint8)
            found &= tf.bitwise.bitwise_and(tf.bitwise.right_shift(byte, bit), tf.constant(1, tf.uint8)) > 0
        return found
