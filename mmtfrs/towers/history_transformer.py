"""What a history says of what comes next, read in its order."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mmtfrs._keras import keras, tf
from mmtfrs.towers.layers import Dropout

LONGEST = 64  # items that are read of a history, the newest ones


class Sequences(NamedTuple):
    """Histories as tokens: what each item that was taken before says, and at the beginning of a history one that says so.

    Attributes:
        items: `[R, S] int32` item rows, 0 for the beginning, and for padding.
        places: `[R, S] int32`, how many items of the history a token is behind its beginning, at most `LONGEST`.
        visible: `[R, S, S] bool`, which tokens each of them may look at: itself, and those before it of the same history.
    """

    items: tf.Tensor
    places: tf.Tensor
    visible: tf.Tensor

    @classmethod
    def of_histories(cls, history: tf.Tensor) -> Sequences:
        """`[B, H] int32` item rows, oldest first, 0 for padding anywhere -> `[B, S]` tokens, the newest item last."""
        length = min(LONGEST, history.shape[1] or LONGEST)
        behind = tf.cumsum(tf.cast(history > 0, tf.int32), axis=1, reverse=True)  # an item's place from the end
        kept = tf.where((history > 0) & (behind <= length))
        columns = length + 1 - tf.cast(tf.gather_nd(behind, kept), tf.int64)
        shape = tf.stack([tf.shape(history)[0], length + 1])
        items = tf.scatter_nd(tf.stack([kept[:, 0], columns], axis=1), tf.gather_nd(history, kept), tf.cast(shape, tf.int64))
        items = tf.ensure_shape(items, [history.shape[0], length + 1])
        places = tf.cumsum(tf.cast(items > 0, tf.int32), axis=1)
        # The beginning is the token right before the first item, unless older items were cut off.
        there = (items > 0) | ((places == 0) & (tf.range(length + 1) == length - places[:, -1:]))
        return cls(items, places, _visible(tf.cast(there, tf.int32)))

    @classmethod
    def of_parts(cls, items: tf.Tensor, places: tf.Tensor, parts: tf.Tensor) -> Sequences:
        """Several histories behind each other in a row, told apart by their `parts [R, S] int32`, 0 for padding."""
        return cls(items, places, _visible(parts))


def _visible(parts: tf.Tensor) -> tf.Tensor:
    before = tf.linalg.band_part(tf.ones([parts.shape[1]] * 2, tf.bool), -1, 0)
    same = (parts[:, :, None] == parts[:, None, :]) & (parts > 0)[:, None, :]
    return before & (same | tf.eye(parts.shape[1], dtype=tf.bool))  # padding looks at itself: a softmax needs something


class HistoryTransformer(keras.layers.Layer):
    """Causal self-attention over the items of a history: one gated layer, normalized before each part, as LiGR has it.

    Args:
        dim: D, size of a token.
        dropout: share of tokens' numbers, of attention and of what is added to a token that is dropped in training.

    Call arguments:
        tokens: `[R, S, D]` floating.
        sequences: where they stand, and what each may look at.

    Returns:
        `[R, S, D]`: at each token, what is expected to come next.

    Reference: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018; LiGR: Borisyuk et al., From Features to
    Transformers, 2025; as in eSASRec, RecSys 2025.
    """

    def __init__(self, dim: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.dropout = dim, dropout

    def build(self, input_shape: tf.TensorShape | None) -> None:
        policy = self.dtype_policy

        def dense(name: str, size: int, activation: str | None = None) -> keras.layers.Dense:
            return keras.layers.Dense(size, activation, use_bias=activation is not None, name=name, dtype=policy)

        def norm(name: str) -> keras.layers.LayerNormalization:
            return keras.layers.LayerNormalization(epsilon=1e-6, name=name, dtype=policy)

        self.places = self.add_weight("places", (LONGEST + 1, self.dim), initializer=keras.initializers.RandomNormal(0.0, 0.05))
        self._drop = Dropout(self.dropout, dtype=policy)
        self._norms = [norm(name) for name in ("attention_norm", "hidden_norm", "out_norm")]
        self._queries_keys_values, self._attended = dense("queries_keys_values", 3 * self.dim), dense("attended", self.dim)
        self._gates = [dense(f"{name}_gate", self.dim, "sigmoid") for name in ("attention", "hidden")]
        self._hidden = [dense("hidden", 4 * self.dim, "silu"), dense("hidden_linear", 4 * self.dim)]
        self._out = dense("out", self.dim)
        super().build(input_shape)

    def call(self, tokens: tf.Tensor, sequences: Sequences, training: bool | None = None) -> tf.Tensor:
        x = tokens * math.sqrt(self.dim) + tf.cast(tf.gather(self.places, sequences.places), self.compute_dtype)
        x = self._drop(x, training=training)
        first, second, last = self._norms
        attention_gate, hidden_gate = self._gates
        y = first(x)
        attended = self._attended(self._attention(y, sequences.visible, training))
        x += attention_gate(y) * self._drop(attended, training=training)
        y = second(x)
        active, linear = self._hidden
        x += hidden_gate(y) * self._drop(self._out(active(y) * linear(y)), training=training)
        return last(x)

    def _attention(self, x: tf.Tensor, visible: tf.Tensor, training: bool | None) -> tf.Tensor:
        queries, keys, values = tf.split(self._queries_keys_values(x), 3, axis=-1)
        logits = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32) / math.sqrt(self.dim)
        shares = tf.cast(tf.nn.softmax(tf.where(visible, logits, -1e9)), self.compute_dtype)
        return tf.matmul(self._drop(shares, training=training), values)

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim, "dropout": self.dropout}
