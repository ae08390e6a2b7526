"""A list of items for each of many users, as two flat arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class ItemLists:
    """Items of different numbers, owner by owner. What users took is by user row: row 0, the unknown user, took nothing.

    Attributes:
        items: `[E] int32`, item rows, oldest first where there is an order.
        starts: `[n + 1] int64`: the items of owner `row` are `items[starts[row]:starts[row + 1]]`.
    """

    items: np.ndarray
    starts: np.ndarray

    @classmethod
    def of_log(cls, users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, count: int) -> ItemLists:
        """What each user took, by user row, of a log as `[n]` user rows, item rows and seconds, for `count` users; rows 0 and 0
        are left out. Events of one second keep the order of the log."""
        kept = np.flatnonzero((users > 0) & (items > 0))
        order = kept[np.lexsort((timestamps[kept], users[kept]))]
        return cls(items[order].astype(np.int32), np.searchsorted(users[order], np.arange(count + 2)))

    @classmethod
    def of_owners(cls, owners: np.ndarray, items: np.ndarray, count: int) -> ItemLists:
        """Of items whose owners, `[E]`, are sorted already."""
        return cls(items, np.searchsorted(owners, np.arange(count + 1)))

    @classmethod
    def of(cls, lists: Iterable[np.ndarray]) -> ItemLists:
        """Of one array for each owner."""
        arrays = [np.asarray(each, np.int32) for each in lists]
        starts = np.concatenate([[0], np.cumsum([len(each) for each in arrays])]).astype(np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *arrays]), starts)

    @classmethod
    def nothing(cls, count: int) -> ItemLists:
        """Empty lists of `count` owners."""
        return cls(np.zeros(0, np.int32), np.zeros(count + 1, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.items[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def counts(self) -> np.ndarray:
        """`[n]`: how many items each owner has."""
        return np.diff(self.starts)

    @property
    def owners(self) -> np.ndarray:
        """`[E]`: whose each item is."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.counts)

    def of_items(self, rows: np.ndarray) -> ItemLists:
        """The same with other item rows: `rows[old]` is the new one, 0 for an item that is gone."""
        items = rows[self.items]
        return dataclasses.replace(self, items=items.astype(np.int32)).kept(items > 0)

    def kept(self, mask: np.ndarray) -> ItemLists:
        """Without the items that are false in `mask [E]`."""
        before = np.concatenate([[0], np.cumsum(mask)])
        return ItemLists(self.items[mask], before[self.starts])

    def take(self, rows: np.ndarray) -> ItemLists:
        """The lists of these owners, in this order."""
        return self.pieces(self.starts[rows], self.starts[1:][rows])

    def pieces(self, first: np.ndarray, last: np.ndarray) -> ItemLists:
        """`items[first:last]` for each of `[m]` pairs."""
        counts = last - first
        starts = np.concatenate([[0], np.cumsum(counts)])
        return ItemLists(self.items[np.arange(starts[-1]) + np.repeat(first - starts[:-1], counts)], starts)

    def before(self, places: np.ndarray) -> Prefixes:
        """Of each of `[m]` positions in `items`, what its owner has before it."""
        return Prefixes(self, self.starts[np.searchsorted(self.starts, places, "right") - 1], places)

    def shortened(self, length: int) -> ItemLists:
        """The last `length` items of each."""
        return self.pieces(np.maximum(self.starts[1:] - length, self.starts[:-1]), self.starts[1:])

    def newest(self, length: int) -> np.ndarray:
        """`[n, length] int32`, oldest first, zeros in front: the newest of each."""
        out, short = np.zeros((len(self), length), np.int32), self.shortened(length)
        out[short.owners, length - np.repeat(short.starts[1:], short.counts) + np.arange(len(short.items))] = short.items
        return out


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """Lists that are beginnings of others, made when they are asked for: together they could be very many times as long.

    Attributes:
        lists: of which they are beginnings.
        first, last: `[m]`, where in `lists.items` each begins and ends.
    """

    lists: ItemLists
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.lists.items[first:last] for first, last in zip(self.first, self.last, strict=True))

    def some(self, rows: np.ndarray) -> Prefixes:
        """Those of these numbers, still as beginnings."""
        return Prefixes(self.lists, self.first[rows], self.last[rows])

    def take(self, rows: np.ndarray) -> ItemLists:
        """Those of these numbers, as lists of their own."""
        return self.lists.pieces(self.first[rows], self.last[rows])
