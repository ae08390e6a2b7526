"""Rows for training and asking: who, what, and what they had taken before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.data.events import Events
from mmtfrs.model_inputs.inputs import ModelInputs

Pasts = Sequence[np.ndarray]  # of each of some users, the item rows they took, oldest first


def newest(pasts: Pasts, length: int) -> np.ndarray:
    """`[n, H] int32` item rows, oldest first, zeros in front: the newest `length` of each."""
    out = np.zeros((len(pasts), length), np.int32)
    for row, past in enumerate(pasts):
        if length and len(past):
            out[row, -min(len(past), length) :] = past[-length:]
    return out


class Histories:
    """Every user's items in the order of time, as one flat array.

    Args:
        tables: rows of ids.
        events: the log to take histories from; events on unknown items are left out.
        length: H, the newest items that are kept of a history.
    """

    def __init__(self, tables: ModelInputs, events: Events, length: int) -> None:
        items = tables.item_rows(events.item_ids)
        kept = np.flatnonzero(items > 0)
        names, users = np.unique(events.user_ids[kept].astype(str), return_inverse=True)
        order = np.lexsort((kept, events.timestamps[kept], users))
        self.length = length
        self.kept = kept[order]  # position in the log of each entry
        self.items = items[self.kept]
        self.starts = starts = np.searchsorted(users[order], np.arange(len(names) + 1))
        self._spans = {name: (starts[row], starts[row + 1]) for row, name in enumerate(names)}
        # Tensors, so that a tf.data graph holds references to them and not copies.
        self._tensor = tf.constant(self.items, tf.int32)
        self._first = tf.constant(starts[users[order]], tf.int64)  # of each entry's user
        self._end = tf.constant(starts[users[order] + 1], tf.int64)

    def of_users(self, user_ids: Iterable[str]) -> np.ndarray:
        """`[n, H] int32`: each user's newest items, as `newest` has them."""
        return newest(self.pasts(user_ids), self.length)

    def pasts(self, user_ids: Iterable[str]) -> Pasts:
        """All items of each user."""
        return [self.past(user) for user in user_ids]

    def past(self, user_id: str) -> np.ndarray:
        """`[n] int32`: all item rows of one user, oldest first; empty for an unknown user."""
        start, stop = self._spans.get(user_id, (0, 0))
        return self.items[start:stop]

    @property
    def longest(self) -> int:
        """Items of the longest history, at most `length`."""
        return min(self.length, max((stop - start for start, stop in self._spans.values()), default=0))

    def before(self, entries: tf.Tensor) -> tf.Tensor:
        """`[B]` positions in `items` -> `[B, longest] int32`: what the same user had taken before each."""
        positions = entries[:, None] + tf.range(-self.longest, 0, dtype=tf.int64)
        inside = positions >= tf.gather(self._first, entries)[:, None]
        return tf.where(inside, tf.gather(self._tensor, tf.maximum(positions, 0)), 0)

    def around(self, entries: tf.Tensor) -> tf.Tensor:
        """`[B]` positions in `items` -> `[B, longest] int32`: everything else that the same user took, newest last."""
        positions = tf.gather(self._end, entries)[:, None] + tf.range(-self.longest, 0, dtype=tf.int64)
        inside = (positions >= tf.gather(self._first, entries)[:, None]) & (positions != entries[:, None])
        return tf.where(inside, tf.gather(self._tensor, tf.maximum(positions, 0)), 0)
