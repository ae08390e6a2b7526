"""What both towers are built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmtfrs._keras import keras, tf
from mmtfrs.config.schema import ModelConfig
from mmtfrs.fusion.base import Fusion
from mmtfrs.model_inputs.pooling import Bags, sum_rows
from mmtfrs.utils.draws import uniform


class Dropout(keras.layers.Layer):
    """As Keras' own, with a random byte where that draws a float: a quarter of the work, for shares of 1/256.

    Args:
        rate: share of the units that are dropped in training; the others are scaled up to make up for it.

    Call arguments:
        x: floating.

    Returns:
        Of the shape of `x`.

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, JMLR 2014.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        hidden = min(round(256 * self.rate), 255)
        if not training or not hidden:
            return x
        size = tf.size(x)
        words = uniform([(size + 3) // 4], None, None, tf.int32)
        draws = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size], tf.shape(x))
        kept = draws >= tf.constant(hidden, tf.uint8)
        return tf.ensure_shape(tf.where(kept, x * (256 / (256 - hidden)), tf.zeros([], x.dtype)), x.shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate}


class MLP(keras.layers.Layer):
    """Hidden layers with ReLU and dropout, then a linear layer.

    Args:
        hidden: sizes of the hidden layers.
        dim: size of the output.
        dropout: share of hidden units dropped in training.

    Call arguments:
        x: `[B, n]` floating.

    Returns:
        `[B, dim]`.
    """

    def __init__(self, hidden: Sequence[int], dim: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = list(hidden)
        self.dim = dim
        self.dropout = dropout

    def build(self, input_shape: tf.TensorShape | None) -> None:
        policy = self.dtype_policy
        self._layers = [
            keras.layers.Dense(size, activation="relu", name=f"hidden_{n}", dtype=policy) for n, size in enumerate(self.hidden)
        ]
        self._drop = Dropout(self.dropout, dtype=policy)
        self._out = keras.layers.Dense(self.dim, name="out", dtype=policy)
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for layer in self._layers:
            x = self._drop(layer(x), training=training)
        return self._out(x)

    def get_config(self) -> dict:
        return {**super().get_config(), "hidden": self.hidden, "dim": self.dim, "dropout": self.dropout}


def last_mlp(config: ModelConfig, fusion: Fusion, policy: keras.mixed_precision.Policy) -> MLP | None:
    """What a tower has behind its fusion; nothing behind a late one, whose blocks must not touch each other."""
    return MLP(config.hidden, config.embedding_dim, config.dropout, name="mlp", dtype=policy) if fusion.blocks == 1 else None


def hide_modalities(presence: tf.Tensor, share: float) -> tf.Tensor:
    """`[B, M]` presence; in a share of the rows, half of the ones are turned to zeros. The others stay whole: most of what is
    asked later is."""
    if not share:
        return presence
    row = uniform([tf.shape(presence)[0], 1]) < share
    hidden = row & (uniform(tf.shape(presence)) < 0.5)
    return tf.where(hidden, 0.0, presence)


def as_blocks(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """`[B, D]` and `[B, K, D]` -> `[B, all of them, D] float32`: the parts of an embedding that are scored on their own."""
    return tf.cast(tf.concat([part if part.shape.rank == 3 else part[:, None] for part in parts], axis=1), tf.float32)


class IdEmbedding(keras.layers.Layer):
    """Embeddings of ids, of which row 0 stands for every unknown one.

    In training a share of the ids is replaced by row 0, so that its vector is learned and the rest of the tower learns to
    do without an id.

    Args:
        rows: number of rows, row 0 included.
        dim: size of an embedding.
        id_dropout: share of ids hidden in training.
        sparse: whether a step asks for few of the rows.

    Call arguments:
        ids: `[B]` int32 rows, or bags of them, which are taken as they are.

    Returns:
        `[B, dim]`: the embedding of each id, or the sum over each bag.
    """

    def __init__(self, rows: int, dim: int, id_dropout: float = 0.0, sparse: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.dim = dim
        self.id_dropout = id_dropout
        self.sparse = sparse

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.embeddings = self.add_weight(
            "embeddings",
            (self.rows, self.dim),
            initializer=keras.initializers.RandomNormal(stddev=0.05),
            experimental_autocast=False,  # rows are added up in float32 and cast afterwards
        )
        super().build(input_shape)

    def call(self, ids: tf.Tensor | Bags, training: bool | None = None) -> tf.Tensor:
        if isinstance(ids, Bags):
            return tf.cast(sum_rows(self.embeddings, ids.without(ids.items == 0), self.sparse), self.compute_dtype)
        if training and self.id_dropout:
            ids = tf.where(uniform(tf.shape(ids)) < self.id_dropout, 0, ids)
        return tf.cast(tf.gather(self.embeddings, ids), self.compute_dtype)

    def get_config(self) -> dict:
        mine = {"rows": self.rows, "dim": self.dim, "id_dropout": self.id_dropout, "sparse": self.sparse}
        return {**super().get_config(), **mine}
