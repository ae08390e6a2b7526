"""What tokenizers do in all places of all texts at once: look up sequences, follow chains, look at the place before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mmtfrs._keras import tf

_CODES = 1 << 21  # more than there are code points


class Trie:
    """A trie whose edges are sorted numbers, `node * 2^21 + code`: a binary search finds where one leads.

    Args:
        entries: `(root, codes, value)` of each sequence, values not negative; of the same sequence, the last one counts.
        roots: nodes, from 0 on, that sequences begin at.

    Attributes:
        longest: codes of the longest sequence.
    """

    def __init__(self, entries: Iterable[tuple[int, Sequence[int], int]], roots: int = 1) -> None:
        nodes: dict[int, int] = {}
        ends: dict[int, int] = {}
        self.longest = 0
        for root, codes, value in entries:
            node = root
            for code in codes:
                node = nodes.setdefault(node * _CODES + code, len(nodes) + roots)
            ends[node] = value
            self.longest = max(self.longest, len(codes))
        edges = np.array(list(nodes) or [-1], np.int64)
        targets = np.array(list(nodes.values()) or [0], np.int32)
        values = np.array([ends.get(target, -1) for target in targets], np.int32)
        order = np.argsort(edges)
        # As tensors, which an export keeps once; arrays would be in each of its functions.
        self._edges, self._targets, self._values = (tf.constant(each[order]) for each in (edges, targets, values))

    def step(self, nodes: tf.Tensor, codes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`[N] int32`, twice, -> `(whether it goes on [N] bool, nodes that it leads to [N] int32, the values of the sequences
        that end there [N] int32, -1 where there is none)`. Where it does not go on, the nodes count for nothing."""
        edges = tf.cast(nodes, tf.int64) * _CODES + tf.cast(codes, tf.int64)
        places = tf.minimum(tf.searchsorted(self._edges, edges), self._edges.shape[0] - 1)
        goes = tf.gather(self._edges, places) == edges
        return goes, tf.gather(self._targets, places), tf.where(goes, tf.gather(self._values, places), -1)

    def walk(
        self,
        codes: tf.Tensor,
        rows: tf.Tensor,
        note: Callable[..., tuple[tf.Tensor, tf.Tensor]],
        noted: tuple[tf.Tensor, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds all sequences of one root from all places of texts, a code further at a time.

        Args:
            codes, rows: `[C] int32`, and the texts that they are of.
            note: `(places where sequences begin that have just ended, how many codes behind these they end, their values,
                *noted)` -> what is noted now.
            noted: two vectors, to begin with.
        """
        size = tf.size(codes)
        codes, rows = tf.concat([codes, [0]], axis=0), tf.concat([rows, [-1]], axis=0)

        def step(alive: tf.Tensor, nodes: tf.Tensor, done: tf.Tensor, *noted: tf.Tensor) -> tuple[tf.Tensor, ...]:
            at = tf.minimum(alive + done, size)
            goes, nodes, found = self.step(nodes, tf.gather(codes, at))
            goes &= tf.gather(rows, at) == tf.gather(rows, alive)
            ends = goes & (found >= 0)
            noted = note(tf.boolean_mask(alive, ends), done, tf.boolean_mask(found, ends), *noted)
            return tf.boolean_mask(alive, goes), tf.boolean_mask(nodes, goes), done + 1, *noted

        state = (tf.range(size), tf.zeros([size], tf.int32), tf.constant(0), *noted)
        shapes = tuple(tf.TensorShape([] if number == 2 else [None]) for number in range(len(state)))
        return tf.while_loop(lambda alive, *_: tf.size(alive) > 0, step, state, shapes)[-2:]


def reached(marks: tf.Tensor, jumps: tf.Tensor) -> tf.Tensor:
    """`[N] bool`: the places that are marked, and those that jumps lead to from there.

    Jumps are doubled, so that a chain of n takes log2(n) rounds.

    Args:
        marks: `[N] bool`.
        jumps: `[N] int32`, each in 0..N; N leads nowhere.
    """
    size = tf.size(jumps)
    jumps = tf.concat([jumps, [size]], axis=0)
    marks = tf.concat([marks, [True]], axis=0)

    def step(_: tf.Tensor, marks: tf.Tensor, jumps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.boolean_mask(jumps, marks)
        more = tf.tensor_scatter_nd_update(marks, found[:, None], tf.ones_like(found, tf.bool))
        return tf.reduce_any(more != marks), more, tf.gather(jumps, jumps)

    shapes = (tf.TensorShape([]), tf.TensorShape([None]), tf.TensorShape([None]))
    return tf.while_loop(lambda goes_on, *_: goes_on, step, (tf.constant(True), marks, jumps), shapes)[1][:-1]


def before(values: tf.Tensor, first: int) -> tf.Tensor:
    """`[N]`: the value before each; before the first, this."""
    return tf.concat([tf.cast([first], values.dtype), values[:-1]], axis=0)[: tf.size(values)]
