"""CLIP's tokenizer, pairs of bytes that are merged by rank, as a graph of TensorFlow's own operations."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.characters import BLANKS, Characters, make_characters, read_characters
from mmtfrs.encoders.composed import Composed
from mmtfrs.encoders.trie import before
from mmtfrs.errors import EncoderError

_END = "</w>"  # behind the last piece of a word
_LETTER, _NUMBER, _BLANK, _OTHER = range(4)  # kinds of characters
_LONGEST = 1024  # bytes of a word: what comes behind is not read
_APOSTROPHE = ord("'")
_PLACES = 1 << 32  # more than there are in a batch
_NEVER = 1 << 62  # a rank and a place


class BytePairs:
    """Texts -> ids of pieces of words.

    Characters are composed (NFC) and made small; words are runs of letters, single digits, runs of other signs, and what
    English puts behind an apostrophe. A word is its bytes, of which the two of the lowest rank are merged until none are left
    that have one: one pair of each word in a round, so that a batch takes no more rounds than its longest word has bytes.

    Args:
        vocabulary: ids of pieces; bytes are written as `alphabet` says.
        merges: pairs, the lowest rank first.
        unknown: the id of bytes that are not in the vocabulary.
        most: ids kept of a text.
        characters: what is made of each character before all else.

    Raises:
        EncoderError: a pair, or what becomes of it, is not in the vocabulary.

    Reference: Sennrich et al., ACL 2016; Radford et al., CLIP, ICML 2021. The ids are those of `CLIPTokenizerFast`, but that
    what looks like a special token in a text is plain text here.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, ...]],
        unknown: int,
        most: int,
        characters: Characters | None = None,
    ) -> None:
        for pair in merges:
            lacking = [piece for piece in (*pair, "".join(pair)) if piece not in vocabulary]
            if lacking:
                raise EncoderError(f"the vocabulary has no `{lacking[0]}`, which is merged. Are both of one tokenizer?")
        self._inner, self._last = (
            tf.constant(np.array([vocabulary.get(letter + end, unknown) for letter in alphabet()], np.int32))
            for end in ("", _END)
        )
        # Of a pair that is there twice, the last rank counts.
        ranks = {(vocabulary[left], vocabulary[right]): rank for rank, (left, right) in enumerate(merges)}
        self._size = max(vocabulary.values(), default=0) + 1
        keys = np.array([left * self._size + right for left, right in ranks] or [-1], np.int64)
        order = np.argsort(keys)
        self._keys = tf.constant(keys[order])
        self._ranks = tf.constant(np.array([*ranks.values()] or [0], np.int64)[order])
        self._made = tf.constant(np.array([vocabulary["".join(pair)] for pair in merges] or [0], np.int32))  # by rank
        self._before = Characters(*map(tf.constant, characters)) if characters is not None else None
        self._composed, self._characters = Composed(), Characters(*map(tf.constant, _characters()))
        self._most = most

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """`[B] string`, valid UTF-8, -> `[B, None] int32`."""
        codes, rows = self._composed(*read_characters(texts, self._before))
        codes, kinds, source = self._characters.normalize(codes)
        rows = tf.gather(rows, source)
        begins, there = _begins(codes, kinds, rows), kinds != _BLANK
        codes, rows, begins = (tf.boolean_mask(each, there) for each in (codes, rows, begins))
        # Of a text, no more words than ids can matter.
        words = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        first = tf.math.unsorted_segment_min(words, rows, tf.size(texts))
        kept = words - tf.gather(first, rows) < self._most
        codes, rows, words = (tf.boolean_mask(each, kept) for each in (codes, rows, words))
        values, source = _bytes(codes)
        rows, words = tf.gather(rows, source), tf.gather(words, source)
        places = tf.range(tf.size(words))
        first = tf.math.unsorted_segment_min(places, words, _count(words))
        kept = places - tf.gather(first, words) < _LONGEST
        values, rows, words = (tf.boolean_mask(each, kept) for each in (values, rows, words))
        last = tf.concat([words[1:] != words[:-1], [True]], axis=0)[: tf.size(words)]
        ids = self._merge(tf.where(last, tf.gather(self._last, values), tf.gather(self._inner, values)), words)
        there = ids >= 0
        found = tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(ids, there), tf.cast(tf.boolean_mask(rows, there), tf.int64), tf.size(texts, tf.int64)
        )
        return found[:, : self._most]

    def _merge(self, ids: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
        """`[S] int32`: at the first byte of each piece its id, -1 elsewhere."""
        count, size = _count(words), tf.size(ids)

        def step(ids: tf.Tensor, words: tf.Tensor, places: tf.Tensor, made: tf.Tensor) -> tuple[tf.Tensor, ...]:
            keys = tf.cast(ids[:-1], tf.int64) * self._size + tf.cast(ids[1:], tf.int64)
            near = tf.minimum(tf.searchsorted(self._keys, keys), self._keys.shape[0] - 1)
            known = (tf.gather(self._keys, near) == keys) & (words[:-1] == words[1:])
            # The lowest rank, and of the same rank the first: both in one number.
            order = tf.gather(self._ranks, near) * _PLACES + tf.range(tf.size(keys, tf.int64))
            best = tf.math.unsorted_segment_min(tf.where(known, order, _NEVER), words[:-1], count)
            best = tf.boolean_mask(best, best < _NEVER)
            at, rank = tf.cast(best % _PLACES, tf.int32), tf.cast(best // _PLACES, tf.int32)
            alive = tf.scatter_nd(tf.gather(words, at)[:, None], tf.ones_like(at), [count]) > 0
            ids = tf.tensor_scatter_nd_update(ids, at[:, None], tf.gather(self._made, rank))
            there = tf.scatter_nd(at[:, None] + 1, tf.ones_like(at), tf.shape(ids)) == 0
            goes_on = tf.gather(alive, words)
            done = there & ~goes_on
            made = tf.tensor_scatter_nd_update(made, tf.boolean_mask(places, done)[:, None], tf.boolean_mask(ids, done))
            return (*(tf.boolean_mask(each, there & goes_on) for each in (ids, words, places)), made)

        state = (ids, words, tf.range(size), tf.fill([size], -1))
        shapes = (tf.TensorShape([None]),) * len(state)
        return tf.while_loop(lambda ids, *_: tf.size(ids) > 0, step, state, shapes)[-1]


def _begins(codes: tf.Tensor, kinds: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`[C] bool`: where words begin, as `'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^\\s\\p{L}\\p{N}]+` cuts a text."""
    size = tf.size(codes)
    starts = before(rows, -1) != rows
    kinds_before = tf.where(starts, _BLANK, before(kinds, _BLANK))

    def ahead(values: tf.Tensor, by: int) -> tf.Tensor:
        return tf.concat([values[by:], tf.fill([by], -1)], axis=0)[:size]

    def follows(text: str) -> tf.Tensor:
        found = tf.ones_like(starts)
        for by, letter in enumerate(text, 1):
            found &= (ahead(codes, by) == ord(letter)) & (ahead(rows, by) == rows)
        return found

    # Within a run of other signs an apostrophe is one of them.
    begin = (codes == _APOSTROPHE) & (kinds_before != _OTHER)
    one = begin & functools.reduce(tf.logical_or, map(follows, "stmd"))
    two = begin & functools.reduce(tf.logical_or, map(follows, ("re", "ve", "ll")))

    def behind(values: tf.Tensor, by: int) -> tf.Tensor:
        return tf.concat([tf.zeros([by], tf.bool), values], axis=0)[:size]

    within = behind(one, 1) | behind(two, 1) | behind(two, 2)
    return ((kinds != kinds_before) | (kinds == _NUMBER) | starts | behind(one, 2) | behind(two, 3)) & ~within


def _count(words: tf.Tensor) -> tf.Tensor:
    """How many words there are; of none, `reduce_max` is the least of all numbers."""
    return tf.maximum(tf.reduce_max(words), -1) + 1


def _bytes(codes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`(bytes of UTF-8 [S], of which code point each is [S])`, int32."""
    counts = 1 + sum(tf.cast(codes >= least, tf.int32) for least in (0x80, 0x800, 0x10000))
    source = tf.repeat(tf.range(tf.size(codes)), counts)
    within = tf.range(tf.size(source)) - tf.gather(tf.cumsum(counts, exclusive=True), source)
    counts, codes = tf.gather(counts, source), tf.gather(codes, source)
    bits = tf.bitwise.right_shift(codes, 6 * (counts - 1 - within))
    lead = tf.gather(tf.constant([0, 0, 0xC0, 0xE0, 0xF0]), counts)
    return tf.where(within == 0, bits | lead, bits & 0x3F | 0x80), source


@functools.cache
def alphabet() -> tuple[str, ...]:
    """How vocabularies write each byte: those that can be seen as themselves, the others as letters from 256 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in seen else next(others)) for byte in range(256))


@functools.cache
def _characters() -> Characters:
    """Letters made small, one by one, and what kind each is of."""

    def kind(letter: str) -> int:
        return _BLANK if letter in BLANKS else {"L": _LETTER, "N": _NUMBER}.get(unicodedata.category(letter)[0], _OTHER)

    def key(first: int, letters: list[str]) -> tuple:
        return (first,) if any(letter.lower() != letter for letter in letters) else tuple(map(kind, letters))

    return make_characters(str.lower, kind, key)
