"""What a request asks of the items that answer it: allowed values of their attributes, and boosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.utils.finite import LARGEST
from mmtfrs.utils.row_problems import are_finite, joined, told


class Attributes(tf.Module):
    """The attributes of the catalog's items, as `category` or `language`, and what requests say about them.

    Requests name a value as `attribute=value`. Several values of one attribute are alternatives; different attributes must all
    fit. An item without a value of an attribute fits only where that attribute is not asked for.

    Args:
        columns: `{attribute: N values}`, as strings; "" is no value.
        size: N, for a catalog without attributes.
    """

    def __init__(self, columns: Mapping[str, Sequence[str] | np.ndarray], size: int) -> None:
        super().__init__(name="attributes")
        self.names = tuple(columns)
        keys: list[str] = []
        owners: list[int] = []
        numbers = np.zeros((size, len(columns)), np.int32)
        for place, (name, values) in enumerate(columns.items()):
            # The empty value is always there: what an item without one has, and what no request can name.
            distinct, codes = np.unique(np.append(np.asarray(values, str), ""), return_inverse=True)
            numbers[:, place] = codes[:-1] + len(keys)
            keys += [f"{name}={value}" for value in distinct]
            owners += [place] * len(distinct)
        # One value more than there are: it stands for all that no item has.
        keys, owners = keys or ["="], owners or [0]
        self.count = len(keys)
        order = np.argsort(numbers.ravel(), kind="stable")
        self.values = tf.Variable(numbers, trainable=False, name="values")
        self.owners = tf.Variable(np.array(owners, np.int32), trainable=False, name="owners")
        # Which items have a value: those of value v stand from starts[v] to starts[v + 1].
        posted = (order // max(len(columns), 1)).astype(np.int32) if columns else np.zeros(1, np.int32)
        starts = np.searchsorted(numbers.ravel()[order], np.arange(self.count + 1)).astype(np.int32)
        self.posted = tf.Variable(posted, trainable=False, name="posted")
        self.starts = tf.Variable(starts, trainable=False, name="starts")
        self._numbers = _table(keys, range(len(keys)))
        self._places = _table(self.names or [""], range(max(len(self.names), 1)))

    def numbers(self, named: tf.Tensor, what: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`[B, L]` strings `attribute=value` -> `(values [B, L], attributes [B, L])` int32, -1 for "" and unknown values, and
        problems `[B]` of rows that name an attribute that the catalog does not have."""
        attribute = self._places.lookup(tf.strings.regex_replace(named, "=(.|\n)*$", ""))
        attribute = attribute if self.names else tf.fill(tf.shape(named), -1)
        given = tf.strings.length(named) > 0
        whole = tf.strings.regex_full_match(named, "[^=]+=(.|\n)+")
        known = ", ".join(self.names) or "none"
        wrong = tf.reduce_any(given & ~(whole & (attribute >= 0)), axis=1)
        text = f"{what}: every entry must be attribute=value, of the attributes this model knows ({known})"
        return tf.where(given, self._numbers.lookup(named), -1), tf.where(given, attribute, -1), told(wrong, text)

    def permitted(self, allow: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B, L]` allowed values -> `[B, V]` bool: which values an item may have; and problems `[B]`."""
        values, attributes, problem = self.numbers(allow, "allow")
        asked = self._scatter(attributes, tf.ones_like(attributes), max(len(self.names), 1)) > 0
        allowed = self._scatter(values, tf.ones_like(values), self.count) > 0
        return allowed | ~tf.gather(asked, self.owners, axis=1), problem

    def passes(self, permitted: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """`[B, V]` bool, `[B, R]` item rows -> `[B, R]` bool: whether all of an item's values are permitted."""
        return tf.reduce_all(tf.gather(permitted, tf.gather(self.values, rows), batch_dims=1), axis=2)

    def boosts(self, named: tf.Tensor, boost: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B, J]` values and what each adds to a score -> `[B, V] float32`, and problems `[B]`."""
        values, _, problem = self.numbers(named, "boost_attribute")
        finite = are_finite(boost)
        problem = joined(problem, told(~tf.reduce_all(finite, axis=1), f"boost: must be finite, and {LARGEST:g} at most"))
        return self._scatter(values, tf.where(finite, boost, 0.0), self.count), problem

    def boosted(self, boosts: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """`[B, V]`, `[B, R]` item rows -> `[B, R] float32`: the sum over an item's values."""
        return tf.reduce_sum(tf.gather(boosts, tf.gather(self.values, rows), batch_dims=1), axis=2)

    def sizes(self) -> tf.Tensor:
        """`[V] int32`: how many items have each value."""
        return self.starts[1:] - self.starts[:-1]

    @staticmethod
    def _scatter(places: tf.Tensor, values: tf.Tensor, size: int) -> tf.Tensor:
        """`[B, L]` places, -1 for nothing, and values -> `[B, size]` sums."""
        width = size + 1  # the last column is for padding
        flat = tf.where(places >= 0, places, size) + tf.range(tf.shape(places)[0])[:, None] * width
        total = tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), tf.reshape(flat, [-1]), tf.shape(places)[0] * width)
        return tf.reshape(total, [-1, width])[:, :size]


def _table(keys: Sequence[str], values: Sequence[int]) -> tf.lookup.StaticHashTable:
    pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(list(keys), tf.string), tf.constant(list(values), tf.int32))
    return tf.lookup.StaticHashTable(pairs, default_value=-1)
