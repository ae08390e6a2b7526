"""What a training step minimises: a loss of each positive against columns of negatives."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.models import losses
from mmtfrs.models.known import KnownItems
from mmtfrs.models.negatives import Embed, Negatives
from mmtfrs.sections import LossConfig

_MAX_SCALE = 100.0  # of a learned temperature, as in CLIP (Radford et al. 2021)


class Objective(keras.layers.Layer):
    """The loss of each block of an embedding on its own, added up: what ids say must not be an excuse for what media do not.

    Args:
        config: the loss, its temperature and negatives.
        counts: `[N + 1]` training events per item row.
    """

    def __init__(self, config: LossConfig, counts: np.ndarray, **kwargs) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.loss = losses.get(config.name)
        self.negatives = Negatives(config, counts, name="negatives")
        self.known: KnownItems | None = None  # set by `remember`, before training

    def build(self, input_shape) -> None:
        start = keras.initializers.Constant(-np.log(self.config.temperature))
        self.log_scale = self.add_weight("log_scale", (), tf.float32, start, trainable=self.config.learn_temperature)
        super().build(input_shape)

    def remember(self, known: KnownItems) -> None:
        """Gives the pairs of the training log, which `mask_known` needs."""
        self.known = known

    def call(self, queries: tf.Tensor, users: tf.Tensor, items: tf.Tensor, embed: Embed) -> tuple[tf.Tensor, tf.Tensor]:
        """Args:

        queries: `[B, K, D] float32`.
        users, items: `[B] int32` rows.
        embed: item rows -> `[n, K, D]` embeddings.

        Returns:
            `(losses [B] float32, embeddings of the positives [B, K, D])`.
        """
        columns = self.negatives(items, embed)
        scale = tf.minimum(tf.exp(self.log_scale), _MAX_SCALE)
        allowed = (columns.items[None] != items[:, None]) & (columns.items > 0)[None]
        if self.config.mask_known and self.known is not None:
            allowed &= ~self.known(users, columns.items)
        total = tf.zeros(tf.shape(items))
        parts = (tf.unstack(values, axis=1) for values in (queries * scale, columns.positives, columns.embeddings))
        for query, own, others in zip(*parts, strict=True):
            positive, logits = tf.reduce_sum(query * own, axis=1), tf.matmul(query, others, transpose_b=True)
            total += self.loss(positive, logits, columns.log_counts[None], allowed, self.config.margin)
        return total, columns.positives
