"""How a text is written before it is cut: a table of sequences and what stands for each, as SentencePiece's files carry it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.trie import Trie, reached

# Bytes of a sequence, and sequences of so many bytes: what is beyond goes round in circles.
_DEEPEST, _MOST = 256, 1 << 21


class Spelling:
    """Rewrites the longest sequences of characters that the table has, from left to right; others stay as they are.

    Args:
        table: what is put for each sequence, which may be nothing.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        self._trie = Trie((0, list(map(ord, source)), number) for number, source in enumerate(table))
        lengths = np.array([0, *map(len, table.values())], np.int32)
        self._starts = tf.constant(np.cumsum(lengths, dtype=np.int32))
        self._codes = tf.constant(np.array([ord(letter) for target in table.values() for letter in target] or [0], np.int32))

    def __call__(self, codes: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`(code points [C], their texts [C])`, int32, -> the same of what is put for them."""
        if not self._trie.longest:
            return codes, rows
        lengths, values = self._matches(codes, rows)
        places = tf.range(tf.size(codes))
        # A sequence begins wherever none before reaches to; elsewhere it depends on where those begin.
        far = tf.cast(lengths > 1, tf.int32)
        far -= tf.math.unsorted_segment_sum(far, tf.where(lengths > 1, places + lengths - 1, -1), tf.size(codes))
        begins = reached(tf.cumsum(far, exclusive=True) == 0, places + lengths)
        codes, rows, values = (tf.boolean_mask(each, begins) for each in (codes, rows, values))
        first = tf.gather(self._starts, tf.maximum(values, 0))
        counts = tf.where(values < 0, 1, tf.gather(self._starts, tf.maximum(values, 0) + 1) - first)
        source = tf.repeat(tf.range(tf.size(codes)), counts)
        within = tf.range(tf.size(source)) - tf.gather(tf.cumsum(counts, exclusive=True), source)
        there = tf.gather(values, source) >= 0
        put = tf.gather(self._codes, tf.where(there, tf.gather(first, source) + within, 0))
        return tf.where(there, put, tf.gather(codes, source)), tf.gather(rows, source)

    def _matches(self, codes: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`(length [C], value [C])` int32 of the longest sequence from each place on; 1 and -1 where there is none."""

        def note(
            starts: tf.Tensor, done: tf.Tensor, found: tf.Tensor, lengths: tf.Tensor, values: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            lengths = tf.tensor_scatter_nd_update(lengths, starts[:, None], tf.fill([tf.size(starts)], done + 1))
            return lengths, tf.tensor_scatter_nd_update(values, starts[:, None], found)

        size = tf.size(codes)
        return self._trie.walk(codes, rows, note, (tf.ones([size], tf.int32), tf.fill([size], -1)))


def read_charsmap(data: bytes) -> dict[str, str]:
    """The table of a `precompiled_charsmap`: a double array of a trie over UTF-8 bytes, whose values are places in a text.

    Raises:
        ValueError: it is damaged.

    Reference: Yata, Darts-clone; the layout is that of its 32-bit units.
    """
    if not data:
        return {}
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not 4 <= size <= len(data) - 4:
        raise ValueError("the table of characters has another size than it says")
    units, text = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64), data[4 + size :]
    table: dict[str, str] = {}
    paths, nodes = [b""], _offsets(units[:1]).tolist()
    children: dict[int, list[tuple[bytes, int]]] = {}  # most sequences end alike, and share nodes
    letters = np.arange(1, 256)
    for _ in range(_DEEPEST):
        further, found = [], []
        for path, node in zip(paths, nodes, strict=True):
            if node not in children:
                places = (node ^ letters)[(node ^ letters) < len(units)]
                places = places[(units[places] & 0x800000FF) == (places ^ node)]
                children[node] = [(bytes([place ^ node]), place) for place in places.tolist()]
            for letter, place in children[node]:
                further.append(path + letter)
                found.append(place)
        if not found or len(found) > _MOST:
            break
        paths, here = further, units[np.array(found)]
        nodes = (np.array(found) ^ _offsets(here)).tolist()
        for number in np.nonzero(here >> 8 & 1)[0].tolist():
            if nodes[number] >= len(units):
                raise ValueError("the table of characters points beyond its end")
            start = int(units[nodes[number]] & 0x7FFFFFFF)
            end = text.find(b"\0", start)
            if end < 0:
                raise ValueError("the table of characters points beyond its text")
            table[paths[number].decode()] = text[start:end].decode()
    if not found:
        return table
    raise ValueError("the table of characters is no trie")


def _offsets(units: np.ndarray) -> np.ndarray:
    return units >> 10 << ((units & 0x200) >> 6)
