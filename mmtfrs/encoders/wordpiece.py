"""BERT's tokenizer as a graph of TensorFlow's own operations, so that a request can carry raw text to any server."""

from __future__ import annotations

from collections.abc import Sequence

from mmtfrs._keras import tf
from mmtfrs.encoders.characters import PUNCTUATION, SPACE, Characters
from mmtfrs.encoders.trie import Trie

_LONGEST = 100  # characters of a word: a longer one is unknown
_BEGIN, _FURTHER = 0, 1  # roots of words, and of what goes on them
_MARK = "##"  # before a piece that goes on a word


class WordPiece:
    """Texts -> ids of word pieces, the longest first.

    The vocabulary is a trie: one search takes all words of a batch a character further, so that a batch takes as many rounds as
    its longest word has characters, and a few more where a piece was tried in vain.

    Args:
        pieces: the vocabulary in the order of its ids.
        unknown: the piece that stands for words which cannot be cut.
        characters: what is made of each character first.
        most: ids kept of a text; what comes behind is cut off.

    Reference: Wu et al., Google's Neural Machine Translation System, 2016; Devlin et al., BERT, NAACL 2019. The same ids as the
    tokenizers of Hugging Face, but that what looks like a special token in a text is plain text here.
    """

    def __init__(self, pieces: Sequence[str], unknown: str, characters: Characters, most: int) -> None:
        self._trie = Trie([_entry(piece, number) for number, piece in enumerate(pieces)], roots=2)
        self._unknown = pieces.index(unknown)
        self._characters = Characters(*map(tf.constant, characters))
        self._most = most

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """`[B] string`, valid UTF-8, -> `[B, None] int32`."""
        points = tf.strings.unicode_decode(texts, "UTF-8")
        codes, kinds, source = self._characters.normalize(points.flat_values)
        rows = tf.gather(tf.cast(points.value_rowids(), tf.int32), source)
        codes, rows, begins = _words(codes, kinds, rows)
        # Of a text, no more words than ids can matter.
        numbers = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        first_of_row = tf.math.unsorted_segment_min(numbers, rows, tf.size(texts))
        kept = numbers - tf.gather(first_of_row, rows) < self._most
        codes, rows, begins = (tf.boolean_mask(values, kept) for values in (codes, rows, begins))
        ids = self._cut(codes, begins)
        there = ids >= 0
        ragged = tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(ids, there), tf.cast(tf.boolean_mask(rows, there), tf.int64), tf.size(texts, tf.int64)
        )
        return ragged[:, : self._most]

    def _cut(self, codes: tf.Tensor, begins: tf.Tensor) -> tf.Tensor:
        """`[C] int32`: at the first character of each piece its id, -1 elsewhere."""
        size = tf.size(codes)
        starts = tf.cast(tf.where(begins)[:, 0], tf.int32)
        ends = tf.concat([starts[1:], [size]], axis=0)[: tf.size(starts)]
        known = ends - starts <= _LONGEST
        padded = tf.concat([codes, [0]], axis=0)

        def go_on(alive: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            return tf.size(alive) > 0

        def step(
            alive: tf.Tensor,
            at: tf.Tensor,
            node: tf.Tensor,
            begun: tf.Tensor,
            last: tf.Tensor,
            found: tf.Tensor,
            ids: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            """A character further in each living word; where there is no further, the longest piece so far is taken."""
            end = tf.gather(ends, alive)
            goes, further, here = self._trie.step(node, tf.gather(padded, at))
            goes &= at < end
            here = tf.where(goes, here, -1)
            at = tf.where(goes, at + 1, at)
            last, found = tf.where(here >= 0, at, last), tf.where(here >= 0, here, found)
            taken, failed = ~goes & (found >= 0), ~goes & (found < 0)
            ids = tf.tensor_scatter_nd_update(ids, tf.boolean_mask(begun, taken)[:, None], tf.boolean_mask(found, taken))
            ids = self._give_up(ids, tf.boolean_mask(tf.gather(starts, alive), failed), tf.boolean_mask(begun, failed))
            stays = ~(failed | (taken & (last == end)))
            node = tf.where(taken, _FURTHER, tf.where(goes, further, node))
            at, begun, found = tf.where(taken, last, at), tf.where(taken, last, begun), tf.where(taken, -1, found)
            return (*(tf.boolean_mask(values, stays) for values in (alive, at, node, begun, last, found)), ids)

        alive = tf.cast(tf.where(known)[:, 0], tf.int32)
        at = tf.gather(starts, alive)
        ids = tf.fill([size], -1)
        ids = tf.tensor_scatter_nd_update(
            ids, tf.boolean_mask(starts, ~known)[:, None], tf.fill([tf.reduce_sum(tf.cast(~known, tf.int32))], self._unknown)
        )
        nothing = tf.fill(tf.shape(at), -1)
        state = (alive, at, tf.fill(tf.shape(at), _BEGIN), at, at, nothing, ids)
        shapes = (tf.TensorShape([None]),) * len(state)
        return tf.while_loop(go_on, step, state, shapes)[-1]

    def _give_up(self, ids: tf.Tensor, starts: tf.Tensor, begun: tf.Tensor) -> tf.Tensor:
        """The words that begin there are unknown, whatever was found of them before `begun`."""
        counts = begun - starts
        owner = tf.repeat(tf.range(tf.size(starts)), counts)
        within = tf.range(tf.size(owner)) - tf.gather(tf.cumsum(counts, exclusive=True), owner)
        ids = tf.tensor_scatter_nd_update(ids, (tf.gather(starts, owner) + within)[:, None], tf.fill([tf.size(owner)], -1))
        return tf.tensor_scatter_nd_update(ids, starts[:, None], tf.fill([tf.size(starts)], self._unknown))


def _words(codes: tf.Tensor, kinds: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Characters without spaces, their rows, and where words begin: behind a space, and before and behind punctuation."""
    before = tf.concat([[SPACE], kinds[:-1]], axis=0)[: tf.size(kinds)]
    row_before = tf.concat([[-1], rows[:-1]], axis=0)[: tf.size(kinds)]
    begins = (kinds == PUNCTUATION) | (before != 0) | (rows != row_before)
    there = kinds != SPACE
    return tuple(tf.boolean_mask(values, there) for values in (codes, rows, begins))


def _entry(piece: str, number: int) -> tuple[int, list[int], int]:
    goes_on = piece.startswith(_MARK) and len(piece) > len(_MARK)
    letters = piece[len(_MARK) :] if goes_on else piece
    return _FURTHER if goes_on else _BEGIN, list(map(ord, letters)), number
