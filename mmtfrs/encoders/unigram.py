"""SentencePiece's unigram tokenizer as a graph of TensorFlow's own operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.characters import Characters, read_characters
from mmtfrs.encoders.spelling import Spelling
from mmtfrs.encoders.trie import Trie, before, reached
from mmtfrs.errors import EncoderError

MARK = "\u2581"  # stands for a space
_SPACE = 0x20
_LONGEST = 128  # characters of a piece
_SLACK = 4  # pieces behind the last that counts, for the best way there can depend on what follows


class Vocabulary(NamedTuple):
    """Attributes:

    pieces: `(id, score)` of all that a text can be cut into.
    unknown: the id of what is none of them.
    unknown_score: of a character that is no piece.
    """

    pieces: Mapping[str, tuple[int, float]]
    unknown: int
    unknown_score: float


class Spaces(NamedTuple):
    """Attributes:

    prefix: a space is put before the text.
    leading: one that the text begins with is left out.
    repeated: of several, one is left.
    trailing: those at the end are left out.
    """

    prefix: bool = True
    leading: bool = True
    repeated: bool = True
    trailing: bool = True


class Unigram:
    """Texts -> ids of the pieces whose scores have the largest sum; characters that are in none are unknown, one id in a row.

    All pieces in all places of a batch are found together, a character further at a time. Between two places that no piece
    spans nothing depends on each other: the best ways through all such parts are found together, a batch takes as many rounds
    as its longest has characters, most often fewer than a word has.

    Args:
        vocabulary: pieces and scores.
        spelling: what is put for sequences of characters first.
        spaces: what is made of spaces then.
        most: ids kept of a text. Of a text that is longer than so many of the longest piece, the rest is not read.
        characters: what is made of each character before all else.

    Raises:
        EncoderError: a piece is longer than 128 characters.

    Reference: Kudo, Subword Regularization, ACL 2018. The ids are those of the tokenizers of Hugging Face: of two ways with
    the same sum, the one whose last piece is longer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        spelling: Mapping[str, str],
        spaces: Spaces,
        most: int,
        characters: Characters | None = None,
    ) -> None:
        self._trie = Trie((0, list(map(ord, piece)), number) for number, piece in enumerate(vocabulary.pieces) if piece)
        self._longest = self._trie.longest
        if not 1 <= self._longest <= _LONGEST:
            raise EncoderError(
                f"the longest piece of the vocabulary has {self._longest} characters; known are 1 to {_LONGEST}."
            )
        values = vocabulary.pieces.values()
        self._ids = tf.constant(np.array([number for number, _ in values], np.int32))
        self._scores = tf.constant(np.array([score for _, score in values], np.float64))
        self._known = tf.constant(np.array(sorted({ord(letter) for piece in vocabulary.pieces for letter in piece}), np.int32))
        self._unknown, self._unknown_score = vocabulary.unknown, vocabulary.unknown_score
        self._spelling, self._spaces, self._most = Spelling(spelling), spaces, most
        self._characters = Characters(*map(tf.constant, characters)) if characters is not None else None

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """`[B] string`, valid UTF-8, -> `[B, None] int32`."""
        codes, rows = read_characters(texts, self._characters)
        codes, rows = self._marked(*self._spelling(codes, rows), tf.size(texts))
        codes, rows = self._read(codes, rows, tf.size(texts))
        ends, ids = self._best(*self._matches(codes, rows))
        rows = tf.gather(rows, ends)
        fused = (ids == self._unknown) & (before(ids, -1) == self._unknown) & (before(rows, -1) == rows)
        ids, rows = tf.boolean_mask(ids, ~fused), tf.boolean_mask(rows, ~fused)
        found = tf.RaggedTensor.from_value_rowids(ids, tf.cast(rows, tf.int64), tf.size(texts, tf.int64))
        return found[:, : self._most]

    def _marked(self, codes: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Spaces left out, put before each text, and written as marks."""
        mark, begins = ord(MARK), before(rows, -1) != rows
        blank = codes == _SPACE
        out = tf.zeros_like(blank)
        if self._spaces.repeated:
            out |= blank & ~begins & (before(codes, 0) == _SPACE)
        if self._spaces.leading and not self._spaces.prefix:
            out |= blank & begins
        if self._spaces.trailing:
            places = tf.range(tf.size(codes))
            last = tf.math.unsorted_segment_max(tf.where(blank | (codes == mark), -1, places), rows, count)
            out |= places > tf.gather(last, rows)
        codes, rows = tf.boolean_mask(codes, ~out), tf.boolean_mask(rows, ~out)
        if self._spaces.prefix:
            lacks = before(rows, -1) != rows
            if self._spaces.leading:  # the one that is there is the one that is put there
                lacks &= codes != _SPACE
            source = tf.repeat(tf.range(tf.size(codes)), tf.where(lacks, 2, 1))
            added = (before(source, -1) != source) & tf.gather(lacks, source)
            codes, rows = tf.where(added, mark, tf.gather(codes, source)), tf.gather(rows, source)
        return tf.where(codes == _SPACE, mark, codes), rows

    def _read(self, codes: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of characters that are in no piece, one in a row; of a text, no more than matters."""
        place = tf.minimum(tf.searchsorted(self._known, codes), self._known.shape[0] - 1)
        strange = tf.gather(self._known, place) != codes
        kept = ~(strange & tf.concat([[False], strange[:-1]], axis=0)[: tf.size(strange)] & (before(rows, -1) == rows))
        codes, rows = tf.boolean_mask(codes, kept), tf.boolean_mask(rows, kept)
        places = tf.range(tf.size(rows))
        first = tf.math.unsorted_segment_min(places, rows, count)
        kept = places - tf.gather(first, rows) < (self._most + _SLACK) * self._longest
        return tf.boolean_mask(codes, kept), tf.boolean_mask(rows, kept)

    def _matches(self, codes: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`(pieces [C, L] int32, whether a piece reaches into a place from before [C] bool)`: of the piece of `L - l`
        characters that ends at a place, where it is in the vocabulary; -1 where there is none."""
        size, longest = tf.size(codes), self._longest

        def note(
            starts: tf.Tensor, done: tf.Tensor, found: tf.Tensor, reach: tf.Tensor, pieces: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            places = (starts + done) * longest + longest - 1 - done
            pieces = tf.tensor_scatter_nd_update(pieces, places[:, None], found)
            return tf.tensor_scatter_nd_update(reach, starts[:, None], tf.fill([tf.size(starts)], done)), pieces

        reach, pieces = self._trie.walk(codes, rows, note, (tf.zeros([size], tf.int32), tf.fill([size * longest], -1)))
        far = tf.cast(reach > 0, tf.int32)
        change = far - tf.math.unsorted_segment_sum(far, tf.where(reach > 0, tf.range(size) + reach, -1), size)
        return tf.reshape(pieces, [size, longest]), tf.cumsum(change, exclusive=True) > 0

    def _best(self, pieces: tf.Tensor, inside: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`(places where the best pieces end, their ids)`."""
        size, longest = tf.size(inside), self._longest
        nowhere = tf.constant(-np.inf, tf.float64)
        single = tf.one_hot(longest - 1, longest, True, False)
        scores = tf.where(pieces < 0, nowhere, tf.gather(self._scores, tf.maximum(pieces, 0)))
        scores = tf.where((pieces < 0) & single, tf.constant(self._unknown_score, tf.float64), scores)
        starts = tf.cast(tf.where(~inside)[:, 0], tf.int32)
        ends = tf.concat([starts[1:], [size]], axis=0)[: tf.size(starts)]

        def step(at: tf.Tensor, ends: tf.Tensor, sums: tf.Tensor, taken: tf.Tensor) -> tuple[tf.Tensor, ...]:
            """`sums`: of the best ways to the last places, the nearest at the end."""
            ways = sums + tf.gather(scores, at)
            best = tf.reduce_max(ways, axis=1, keepdims=True)
            # The longest piece comes first; which one argmax takes is nowhere promised.
            column = tf.reduce_min(tf.where(ways == best, tf.range(longest), longest - 1), axis=1)
            taken = tf.tensor_scatter_nd_update(taken, at[:, None], column)
            sums, stays = tf.concat([sums[:, 1:], best], axis=1), at + 1 < ends
            return (*(tf.boolean_mask(each, stays) for each in (at + 1, ends, sums)), taken)

        sums = tf.tile(tf.where(single, tf.zeros([], tf.float64), nowhere)[None], [tf.size(starts), 1])
        state = (starts, ends, sums, tf.zeros([size], tf.int32))
        shapes = (tf.TensorShape([None]), tf.TensorShape([None]), tf.TensorShape([None, longest]), tf.TensorShape([None]))
        *_, taken = tf.while_loop(lambda at, *_: tf.size(at) > 0, step, state, shapes)
        before = tf.range(size) - longest + taken
        last = tf.concat([~inside[1:], [True]], axis=0)[:size]
        marks = reached(last, tf.where(before < 0, size, before))
        places = tf.cast(tf.where(marks)[:, 0], tf.int32)
        found = tf.gather_nd(pieces, tf.stack([places, tf.gather(taken, places)], axis=1))
        return places, tf.where(found < 0, self._unknown, tf.gather(self._ids, tf.maximum(found, 0)))
