"""What a training step is shown of the history around an event."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix

from mmtfrs._keras import tf
from mmtfrs.model_inputs.feature_table import MediaRows
from mmtfrs.model_inputs.item_lists import ItemLists

SHOWN = 64  # items of a history; of a longer one as many are drawn, which keeps shapes static and a step fast
_SUMS = 1 << 29  # bytes that the media of all users may take


class Windows:
    """Of each event, its user's newest items without the event's own, or those before it.

    Args:
        lists: what each user took, oldest first; an event is a position in `lists.items`.
        length: the newest items that count, of all or of those before.
        everything: whether what came after an event counts too.
        media: of the items, whose sums over a history are known beforehand, unless histories differ from event to event or that
            would take too much memory.
    """

    def __init__(self, lists: ItemLists, length: int, everything: bool, media: Mapping[str, MediaRows] | None = None) -> None:
        self._length, self._everything = length, everything
        newest = lists.shortened(length)
        self.width = max(1, min(SHOWN, int(newest.counts.max(initial=0))))
        # Tensors, so that a tf.data graph holds references to them and not copies.
        self._items, self._user = tf.constant(lists.items, tf.int32), tf.constant(lists.owners, tf.int32)
        self._starts = tf.constant(lists.starts, tf.int64)
        size = 4 * len(lists) * sum(each.matrix.shape[1] for each in (media or {}).values())
        self._sums = tf.constant(_summed(newest, media)) if media and everything and size <= _SUMS else None

    def __call__(self, entries: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is shown of some histories.

        Args:
            entries: `[B] int64`, events.
            seed: `[2] int64`, of what is drawn.

        Returns:
            `history [B, width] int32`, 0 for nothing, and `size [B] float32`, of how many items that is all, or an even draw
            without replacement. Where sums of media are known, `past [B, all r + M + 1] float32`: the sums of the features of
            each modality over the user's newest items, how many items have them, and whether the event's own item is one of
            these.
        """
        user = tf.gather(self._user, entries)
        end = tf.gather(self._starts, user + 1) if self._everything else entries
        first = tf.maximum(tf.gather(self._starts, user), end - self._length)
        inside = tf.cast((entries >= first) & (entries < end), tf.float32)
        size, slots = (end - first)[:, None], tf.range(self.width, dtype=tf.int64)
        # A draw from each of as many parts as there are slots; they begin anywhere, so that all items are equally likely.
        begin, behind = slots * size // self.width, (slots + 1) * size // self.width
        chances = tf.random.stateless_uniform([tf.shape(entries)[0], self.width + 1], seed)
        drawn = begin + tf.cast(chances[:, 1:] * tf.cast(behind - begin, tf.float32), tf.int64)
        turned = tf.cast(chances[:, :1] * tf.cast(size, tf.float32), tf.int64)
        places = first[:, None] + tf.where(size > self.width, (drawn + turned) % tf.maximum(size, 1), slots)
        there = ((slots < size) | (size > self.width)) & (places != entries[:, None])
        items = tf.where(there, tf.gather(self._items, tf.where(there, places, 0)), 0)
        shown = {"history": items, "size": tf.cast(end - first, tf.float32) - inside}
        if self._sums is None:
            return shown
        return shown | {"past": tf.concat([tf.gather(self._sums, user), inside[:, None]], axis=1)}


def _summed(lists: ItemLists, items: Mapping[str, MediaRows]) -> np.ndarray:
    """`[n, all r + M] float32`: sums of the features of each modality over each list, then how many of its items have them."""
    sums, counts = [], []
    for media in items.values():
        rows = np.asarray(media.rows)[lists.items]
        taken = csr_matrix((np.ones(len(rows), np.float32), rows, lists.starts), (len(lists), len(media.matrix)))
        sums.append(taken @ np.asarray(media.matrix))
        counts.append(np.bincount(lists.owners[rows > 0], minlength=len(lists)).astype(np.float32)[:, None])
    return np.concatenate([*sums, *counts], axis=1)


def shown_in_the_mean(lists: ItemLists) -> float:
    """How many items of its history an event is shown."""
    return float((np.minimum(lists.counts, SHOWN) * lists.counts).sum() / max(len(lists.items), 1))
