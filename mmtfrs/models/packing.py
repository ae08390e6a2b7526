"""Sequences of different lengths as rows of one length: static shapes, and next to no padding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Packed(NamedTuple):
    """Attributes:

    entries: `[R, S] int64`, positions in the log, user by user in the order of time; -1 for padding.
    places: `[R, S] int32`, how many events of its user each has before it in the row, or came right before the piece.
    parts: `[R, S] int32`, which of a row's sequences each belongs to, from 1; 0 for padding.
    """

    entries: np.ndarray
    places: np.ndarray
    parts: np.ndarray

    def padded(self, rows: int) -> Packed:
        """With rows of padding behind, `rows` in all."""
        more = ((0, rows - len(self.entries)), (0, 0))
        return Packed(np.pad(self.entries, more, constant_values=-1), np.pad(self.places, more), np.pad(self.parts, more))


def pack(starts: np.ndarray, length: int, seed: int, epoch: int) -> Packed:
    """The sequences of all users, in a random order that is a function of seed and epoch.

    Sequences that are longer than a row are cut at places that change with the epoch. A sequence is put where the one before
    it ended, or into the next row where it does not fit any more.

    Args:
        starts: `[U + 1] int64`, where each user's entries begin; all users have some.
        length: S, of a row.
        seed, epoch: see above.
    """
    rng = np.random.default_rng((seed, epoch))
    first, sizes = _pieces(starts, length, rng)
    order = rng.permutation(len(first))
    first, sizes = first[order], sizes[order]
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < len(sizes):
        used = ends[bounds[-1] - 1] if bounds[-1] else 0
        bounds.append(int(np.searchsorted(ends, used + length, "right")))
    # Of each piece, its row and where it begins there; of each entry, the same.
    rows = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    row_starts = (ends - sizes)[bounds[:-1]]
    offsets = ends - sizes - row_starts[rows]
    within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    places = np.repeat(rows * length + offsets, sizes) + within
    entries = np.full((len(row_starts), length), -1, np.int64)
    behind, parts = np.zeros(entries.shape, np.int32), np.zeros(entries.shape, np.int32)
    entries.reshape(-1)[places] = np.repeat(first, sizes) + within
    cut = ~np.isin(first, starts)  # what came right before is the first token
    behind.reshape(-1)[places] = np.repeat(cut, sizes) + within
    parts.reshape(-1)[places] = np.repeat(np.arange(len(sizes)) - np.array(bounds)[rows] + 1, sizes)
    return Packed(entries, behind, parts)


def _pieces(starts: np.ndarray, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where pieces of at most `length` entries begin, and how long they are."""
    counts = np.diff(starts)
    long = counts > length
    cut = np.where(long, rng.integers(1, length + 1, len(counts)), counts)  # length of the first piece
    more = -(-(counts - cut) // length)  # further pieces
    user = np.repeat(np.arange(len(counts)), more + 1)
    number = np.arange(len(user)) - np.repeat(np.cumsum(more + 1) - more - 1, more + 1)
    begin = np.where(number, cut[user] + (number - 1) * length, 0)
    size = np.where(number, np.minimum(length, counts[user] - begin), cut[user])
    return starts[user] + begin, size
