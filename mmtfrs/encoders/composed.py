"""Unicode's canonical composition (NFC) as a graph of TensorFlow's own operations."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.characters import Characters, make_characters
from mmtfrs.encoders.trie import Trie, before

_RUN = 64  # characters that are looked at behind one that begins anew; no language has so many marks on a letter
_L, _V, _T, _S = 0x1100, 0x1161, 0x11A7, 0xAC00  # Hangul: of a syllable's parts the first, and the first syllable
_VOWELS, _FINALS = 21, 28
_PLANES = 0x110000


class Composed:
    """`[C] int32` code points and their texts -> the same, each character with its marks as one where Unicode has it.

    Characters are taken apart, marks of one are ordered by their classes, and then all are put together in rounds: the next
    mark of each character at a time.

    Reference: Unicode Standard Annex 15.
    """

    def __init__(self) -> None:
        self._apart = Characters(*map(tf.constant, _apart()))
        pairs = _pairs()
        self._trie = Trie((0, pair, number) for number, pair in enumerate(pairs))
        self._whole = tf.constant(np.array(list(pairs.values()), np.int32))
        self._seconds = tf.constant(np.array(sorted({second for _, second in pairs}), np.int32))

    def __call__(self, codes: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        codes, classes, source = self._apart.normalize(codes)
        rows = tf.gather(rows, source)
        starts = before(rows, -1) != rows
        codes, classes = _ordered(codes, classes, tf.cumsum(tf.cast((classes == 0) | starts, tf.int32)))
        places = tf.range(tf.size(codes))
        near = tf.minimum(tf.searchsorted(self._seconds, codes), self._seconds.shape[0] - 1)
        begins = starts | ((classes == 0) & (tf.gather(self._seconds, near) != codes))
        first = tf.gather(tf.cast(tf.where(begins)[:, 0], tf.int32), tf.cumsum(tf.cast(begins, tf.int32)) - 1)
        begins |= (places - first) % _RUN == 0
        at = tf.cast(tf.where(begins)[:, 0], tf.int32)
        codes, kept = self._put_together(codes, classes, at, tf.concat([at[1:], [tf.size(codes)]], axis=0)[: tf.size(at)])
        return tf.boolean_mask(codes, kept), tf.boolean_mask(rows, kept)

    def _put_together(
        self, codes: tf.Tensor, classes: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`(codes, which are still there)` of runs, in each of which what follows may go into what stands before."""

        def step(
            at: tf.Tensor, ends: tf.Tensor, base: tf.Tensor, last: tf.Tensor, codes: tf.Tensor, kept: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            """`base`: the character that marks go to, -1 where there is none; `last`: the class of the mark before, if kept."""
            held = tf.maximum(base, 0)
            goes, nodes, _ = self._trie.step(tf.zeros_like(at), tf.gather(codes, held))
            fits, _, pair = self._trie.step(nodes, tf.gather(codes, at))
            here = tf.gather(classes, at)
            joined = goes & fits & (pair >= 0) & (base >= 0) & ((last == 0) | (last < here))
            codes = tf.tensor_scatter_nd_update(
                codes, tf.boolean_mask(base, joined)[:, None], tf.gather(self._whole, tf.boolean_mask(pair, joined))
            )
            gone = tf.boolean_mask(at, joined)
            kept = tf.tensor_scatter_nd_update(kept, gone[:, None], tf.zeros_like(gone, tf.bool))
            base = tf.where(~joined & (here == 0), at, base)
            last = tf.where(joined, last, here)
            stays = at + 1 < ends
            return (*(tf.boolean_mask(each, stays) for each in (at + 1, ends, base, last)), codes, kept)

        more = starts + 1 < ends
        starts, ends = tf.boolean_mask(starts, more), tf.boolean_mask(ends, more)
        first = tf.gather(classes, starts)
        state = (starts + 1, ends, tf.where(first == 0, starts, -1), first, codes, tf.ones_like(codes, tf.bool))
        shapes = (tf.TensorShape([None]),) * len(state)
        return tf.while_loop(lambda at, *_: tf.size(at) > 0, step, state, shapes)[-2:]


def _ordered(codes: tf.Tensor, classes: tf.Tensor, groups: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Marks of one group by their classes, and where these are the same in the order in which they came."""
    places = tf.where(classes > 0)
    marks = tf.cast(tf.gather(classes, places[:, 0]), tf.int64)
    keys = (tf.cast(tf.gather(groups, places[:, 0]), tf.int64) * 256 + marks) * tf.size(codes, tf.int64) + places[:, 0]
    order = tf.gather(places[:, 0], tf.argsort(keys))
    put = (tf.tensor_scatter_nd_update(each, places, tf.gather(each, order)) for each in (codes, classes))
    return tuple(put)


@functools.cache
def _apart() -> Characters:
    """Into what each character is taken apart; the kinds are classes of marks."""

    def key(first: int, letters: list[str]) -> tuple:
        plain = all(unicodedata.normalize("NFD", letter) == letter and not unicodedata.combining(letter) for letter in letters)
        return () if plain else (first,)

    return make_characters(lambda letter: unicodedata.normalize("NFD", letter), unicodedata.combining, key)


@functools.cache
def _pairs() -> dict[tuple[int, int], int]:
    """What is put for two characters."""
    pairs = {}
    for code in range(_PLANES):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and parts[0][0] != "<" and unicodedata.normalize("NFC", chr(code)) == chr(code):
            pairs[int(parts[0], 16), int(parts[1], 16)] = code
    for code in range(_S, 0xD7A4):
        syllable, final = divmod(code - _S, _FINALS)
        if final:
            pairs[code - final, _T + final] = code
        else:
            pairs[_L + syllable // _VOWELS, _V + syllable % _VOWELS] = code
    return pairs
