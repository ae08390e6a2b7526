"""How often an item is to be expected in a batch, estimated while training."""

from __future__ import annotations

from mmtfrs._keras import keras, tf

# State that each replica keeps for itself: what it has seen of the data.
PER_REPLICA = {
    "synchronization": tf.VariableSynchronization.ON_READ,
    "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
}


class StreamingFrequencies(keras.layers.Layer):
    """Expected occurrences per batch, from the number of steps between an item's occurrences.

    For logs that are too large to count, or whose frequencies drift: a moving average of the gap between two occurrences, in
    two
    arrays. Items that share a bucket look more frequent than they are. An item that occurs c times in a batch counts as c gaps.

    Args:
        buckets: size of the two arrays; one bucket per item where that is affordable.
        rate: of the moving average.

    Call arguments:
        items: `[B]` int32 item rows of this step.

    Returns:
        `[B] float32`: the logarithm of each item's expected occurrences per batch, after this batch was noted.

    Reference: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations, RecSys 2019,
    algorithm 2.
    """

    def __init__(self, buckets: int, rate: float = 0.05, **kwargs) -> None:
        super().__init__(**kwargs)
        self.buckets = buckets
        self.rate = rate

    def build(self, input_shape) -> None:
        def zeros(name: str) -> tf.Variable:
            shape = () if name == "step" else (self.buckets,)
            return self.add_weight(name, shape, tf.float32, "zeros", trainable=False, **PER_REPLICA)

        self.last, self.gap, self.step = zeros("last"), zeros("gap"), zeros("step")
        super().build(input_shape)

    def call(self, items: tf.Tensor) -> tf.Tensor:
        step = self.step.assign_add(1.0)
        own = self._buckets(items)
        distinct, _, counts = tf.unique_with_counts(own)
        last, gap = tf.gather(self.last, distinct), tf.gather(self.gap, distinct)
        found = (step - last) / tf.cast(counts, tf.float32)
        # The first gap of an item is all that is known of it.
        gap = tf.where(last == 0.0, found, (1.0 - self.rate) * gap + self.rate * found)
        places = distinct[:, None]
        self.last.assign(tf.tensor_scatter_nd_update(self.last, places, tf.fill(tf.shape(distinct), step)))
        self.gap.assign(tf.tensor_scatter_nd_update(self.gap, places, gap))
        return self.log_counts(items)

    def log_counts(self, items: tf.Tensor) -> tf.Tensor:
        """`[...]` item rows -> log of the expected occurrences per batch, nothing noted; rare where never seen."""
        gap = tf.gather(self.gap, self._buckets(items))
        return -tf.math.log(tf.where(gap > 0.0, gap, tf.maximum(self.step, 1.0)))

    def _buckets(self, items: tf.Tensor) -> tf.Tensor:
        return tf.math.floormod(items, self.buckets)  # rows are dense already: this is a hash without clusters

    def get_config(self) -> dict:
        return {**super().get_config(), "buckets": self.buckets, "rate": self.rate}
