"""The second task: what rating a query would give a candidate."""

from __future__ import annotations

from mmtfrs._keras import keras, tf, tfrs


class RatingHead(keras.layers.Layer):
    """Embeddings -> a rating, `mean + b + MLP([q; c; q * c])`, trained with a squared error beside the retrieval.

    Call arguments:
        query, candidate: `[B, W] float32`.

    Returns:
        `[B] float32`, on the scale of the ratings.

    Reference: multi-task learning of retrieval and ranking in TensorFlow Recommenders (`tfrs.tasks.Ranking`).
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.hidden = keras.layers.Dense(64, activation="relu", name="hidden", dtype=self.dtype_policy)
        self.out = keras.layers.Dense(1, name="out", dtype=self.dtype_policy)
        self.mean = self.add_weight("mean", (), tf.float32, "zeros", trainable=False)
        self.deviation = self.add_weight("deviation", (), tf.float32, "ones", trainable=False)
        self.task = tfrs.tasks.Ranking(loss=keras.losses.MeanSquaredError(reduction="none"))
        super().build(input_shape)

    def set_scale(self, mean: float, deviation: float) -> None:
        """Mean and standard deviation of the training ratings: where the head starts."""
        self.mean.assign(mean)
        self.deviation.assign(max(deviation, 1e-3))

    def call(self, query: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
        hidden = self.hidden(tf.concat([query, candidate, query * candidate], axis=1))
        return self.mean + self.deviation * self.out(hidden)[:, 0]

    def loss(self, query: tf.Tensor, candidate: tf.Tensor, ratings: tf.Tensor) -> tf.Tensor:
        """`[B] float32`: squared errors in units of the ratings' variance."""
        predictions = (self(query, candidate) - self.mean) / self.deviation
        return self.task((ratings - self.mean)[:, None] / self.deviation, predictions[:, None], compute_metrics=False)
