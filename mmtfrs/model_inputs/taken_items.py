"""What each known user took: what an export answers a bare user id with, and leaves out of the answer."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class TakenItems:
    """Attributes:

    items: `[E] int32` item rows, user by user, oldest first.
    starts: `[M + 2] int64`: what user row `u` took are `items[starts[u]:starts[u + 1]]`; row 0, the unknown user, took nothing.
    """

    items: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, count: int) -> TakenItems:
        """Of a log as `[n]` user rows, item rows and seconds, for `count` users; rows 0 and 0 are left out. Events of one
        second keep the order of the log."""
        kept = np.flatnonzero((users > 0) & (items > 0))
        order = kept[np.lexsort((kept, timestamps[kept], users[kept]))]
        return cls(items[order].astype(np.int32), np.searchsorted(users[order], np.arange(count + 2)).astype(np.int64))

    @classmethod
    def nothing(cls, count: int) -> TakenItems:
        """Of `count` users."""
        return cls(np.zeros(0, np.int32), np.zeros(count + 2, np.int64))

    @property
    def users(self) -> np.ndarray:
        """`[E]`: the user row of each item."""
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), np.diff(self.starts))

    def of_items(self, rows: np.ndarray) -> TakenItems:
        """The same with other item rows: `rows[old]` is the new one, 0 for an item that is gone."""
        items = rows[self.items]
        before = np.concatenate([[0], np.cumsum(items > 0)])
        return TakenItems(items[items > 0].astype(np.int32), before[self.starts])

    def of_users(self, old: np.ndarray) -> TakenItems:
        """The same for other user rows: `old [M']` has the row of each of these users here, 0 for a new one."""
        counts = (self.starts[1:] - self.starts[:-1])[old]
        starts = np.concatenate([[0, 0], np.cumsum(counts)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[old] - starts[1:-1], counts)
        return TakenItems(self.items[places], starts)
