"""What an export knows of its users: who they are, what they took, and what a request adds to it."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.model_inputs.inputs import ModelInputs


class PastItems(tf.Module):
    """Users and the items they took, in stock TensorFlow ops.

    Item rows are those of the model here: 0 is no item.

    Args:
        tables: of the model.
        stored: newest items per user that stand for a history where a request has none; 0: the export knows of no history.
        length: newest items of a history that the model reads.
    """

    def __init__(self, tables: ModelInputs, stored: int, length: int) -> None:
        super().__init__(name="past")
        users = tables.user_ids if len(tables.user_ids) else np.array([""], object)
        self._users = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(users, tf.string), tf.range(1, len(users) + 1, dtype=tf.int32)),
            default_value=0,
        )
        self._stored, self._length = stored, length
        if stored:
            self._items = tf.Variable(np.append(tables.taken.items, 0).astype(np.int32), trainable=False, name="taken")
            self._starts = tf.Variable(tables.taken.starts.astype(np.int32), trainable=False, name="taken_starts")

    def rows(self, user_id: tf.Tensor) -> tf.Tensor:
        """`[B]` ids -> `[B] int32` user rows, 0 for unknown users."""
        return self._users.lookup(user_id)

    def history(self, users: tf.Tensor, sent: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows, `[B, L]` item rows of the request -> `[B, H] int32`: these, or where there are none what is stored;
        the newest ones, oldest first, padding anywhere."""
        if not self._length:
            return sent[:, :0]
        if self._stored:
            own = self._of(users, min(self._stored, self._length))
            sent = tf.concat([tf.where(tf.reduce_any(sent > 0, axis=1, keepdims=True), 0, own), sent], axis=1)
        # Known items sort by position, padding before all of them; then the last ones are the newest known.
        position = tf.range(tf.shape(sent)[1])
        order = tf.argsort(tf.where(sent > 0, position[None, :], -1), axis=1, stable=True)
        return tf.gather(sent, order, batch_dims=1)[:, -self._length :]

    def taken(self, users: tf.Tensor, sent: tf.Tensor) -> tf.Tensor:
        """As `history`, but all that a user took beside what the request says: `[B, E] int32`."""
        return tf.concat([self._of(users), sent], axis=1) if self._stored else sent

    def _of(self, users: tf.Tensor, newest: int | None = None) -> tf.Tensor:
        starts, ends = tf.gather(self._starts, users), tf.gather(self._starts, users + 1)
        if newest is not None:
            starts = tf.maximum(starts, ends - newest)
        places = tf.ragged.range(starts, ends)
        return places.with_flat_values(tf.gather(self._items.value(), places.flat_values)).to_tensor(0)
