"""What a training step minimises: a loss of each positive against columns of negatives."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.models import losses
from mmtfrs.models.known import KnownItems
from mmtfrs.models.negatives import Embed, MinedNegatives, Negatives
from mmtfrs.sections import LossConfig

_MAX_SCALE = 100.0  # of a learned temperature, as in CLIP (Radford et al. 2021)


class Objective(keras.layers.Layer):
    """Args:

    config: the loss, its temperature and negatives.
    counts: `[N + 1]` training events per item row.
    users: number of user rows, row 0 included.
    width: W, size of an embedding.
    blocks: parts of an embedding that are scored on their own; more than one for late fusion.
    combine: of a late fusion, how the blocks' scores become one (`sum`, `stacking`, `voting`).
    """

    def __init__(self, config: LossConfig, counts: np.ndarray, users: int, width: int, blocks: int = 1,
                 combine: str = "sum", **kwargs) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.config = config
        self.blocks = blocks
        self.combine = combine
        self.loss = losses.get(config.name)
        self.negatives = Negatives(config, counts, width, name="negatives")
        self.known: KnownItems | None = None  # set by `remember`, before training
        self.mined = MinedNegatives(users, config.mined) if config.mined else None

    def build(self, input_shape) -> None:
        start = keras.initializers.Constant(-np.log(self.config.temperature))
        self.log_scale = self.add_weight("log_scale", (), tf.float32, start, trainable=self.config.learn_temperature)
        if self.blocks > 1:
            learned = self.combine != "voting"
            self.shares = self.add_weight("shares", (self.blocks,), tf.float32, "zeros", trainable=learned)
            self.bias = self.add_weight("bias", (), tf.float32, "zeros", trainable=self.combine == "stacking")
        super().build(input_shape)

    @property
    def block_weights(self) -> tf.Tensor:
        """`[blocks] float32`: the weight of each block's score; they sum to the number of blocks, or are free if stacked."""
        if self.combine == "stacking":
            return tf.nn.softplus(self.shares + 0.5413)  # 1 at first
        return self.blocks * tf.nn.softmax(self.shares)

    def remember(self, known: KnownItems) -> None:
        """Gives the pairs of the training log, which `mask_known` and mining need."""
        self.known = known

    def call(self, queries: tf.Tensor, users: tf.Tensor, items: tf.Tensor, embed: Embed) -> tuple[tf.Tensor, tf.Tensor]:
        """Args:

        queries: `[B, W] float32`.
        users, items: `[B] int32` rows.
        embed: item rows -> `[n, W]` embeddings.

        Returns:
            `(losses [B] float32, embeddings of the positives [B, W])`.
        """
        columns = self.negatives(items, embed)
        if columns.batch is None:
            return self._contrast(queries, users, items, embed, columns), columns.positives
        # What is remembered pushes queries but no candidates: these would be pulled by every positive and pushed by few, and
        # collapse. So the batch alone teaches the candidates, and everything the queries.
        queries_learn = self._contrast(queries, users, items, embed, columns.frozen())
        candidates_learn = self._contrast(tf.stop_gradient(queries), users, items, embed, columns.batch)
        return queries_learn + candidates_learn - tf.stop_gradient(candidates_learn), columns.positives

    def _contrast(self, queries, users, items, embed, columns) -> tf.Tensor:
        """`[B] float32` losses against these columns."""
        scale = tf.minimum(tf.exp(self.log_scale), _MAX_SCALE)
        allowed = (columns.items[None] != items[:, None]) & (columns.items > 0)[None]
        if self.config.mask_known and self.known is not None:
            allowed &= ~self.known(users, columns.items)
        log_counts = columns.log_counts[None]
        if self.blocks > 1:
            return self._late(queries * scale, columns, log_counts, allowed)
        logits = tf.matmul(queries * scale, columns.embeddings, transpose_b=True)
        positive = tf.reduce_sum(queries * scale * columns.positives, axis=1)
        if self.negatives.kind == "hard":
            logits, log_counts, allowed = self._hardest(logits, log_counts, allowed, columns)
        if self.mined is not None:
            logits, log_counts, allowed = self._with_mined(
                queries * scale, users, items, embed, columns, logits, log_counts, allowed
            )
        return self.loss(positive, logits, log_counts, allowed, self.config.margin)

    def _hardest(self, logits, log_counts, allowed, columns):
        """The columns that are scored highest, without those that are nearly the positive itself."""
        allowed &= ~self._too_similar(columns.positives, columns.embeddings[None])
        count = tf.minimum(self.config.hard, tf.shape(logits)[1])
        places = tf.math.top_k(tf.where(allowed, logits - log_counts, tf.float32.min), count).indices

        def pick(values):
            return tf.gather(tf.broadcast_to(values, tf.shape(logits)), places, batch_dims=1)

        return pick(logits), pick(log_counts), pick(allowed)

    def _with_mined(self, queries, users, items, embed, columns, logits, log_counts, allowed):
        """Mined items stand in the sum exactly, as the positive does; sampled copies of them are left out."""
        rows = self.mined(users)
        vectors = tf.reshape(embed(tf.reshape(rows, [-1])), [-1, self.mined.count, queries.shape[1]])
        fine = (rows > 0) & (rows != items[:, None]) & ~self._too_similar(columns.positives, vectors)
        if self.known is not None:
            fine &= ~self.known(users, rows)
        if self.negatives.kind != "hard":
            twice = tf.reduce_any((columns.items[None, :, None] == rows[:, None, :]) & fine[:, None, :], axis=2)
            allowed &= ~twice
        scores = tf.einsum("bw,bhw->bh", queries, vectors)
        log_counts = tf.broadcast_to(log_counts, tf.shape(logits))
        joined = ((logits, scores), (log_counts, tf.zeros_like(scores)), (allowed, fine))
        return tuple(tf.concat(pair, axis=1) for pair in joined)

    def _too_similar(self, positives, others):
        """`[B, W]`, `[B or 1, C, W]` -> `[B, C] bool`: probably the same thing twice, so no negative."""
        positives, others = (tf.math.l2_normalize(tf.stop_gradient(x), axis=-1) for x in (positives, others))
        if others.shape[0] == 1:
            return tf.matmul(positives, others[0], transpose_b=True) > self.config.similar
        return tf.einsum("bw,bcw->bc", positives, others) > self.config.similar

    def _late(self, queries, columns, log_counts, allowed):
        """Each block learns on its own; how to combine their scores is learned on top, without touching them."""
        parts = [tf.split(values, self.blocks, axis=1) for values in (queries, columns.positives, columns.embeddings)]
        total, positives, logits = 0.0, [], []
        for query, positive, candidates in zip(*parts, strict=True):
            positives.append(tf.reduce_sum(query * positive, axis=1))
            logits.append(tf.matmul(query, candidates, transpose_b=True))
            total += self.loss(positives[-1], logits[-1], log_counts, allowed, self.config.margin)
        if self.combine == "voting":
            return total
        weights = tf.unstack(self.block_weights, num=self.blocks)
        positive = tf.add_n([w * tf.stop_gradient(p) for w, p in zip(weights, positives, strict=True)])
        logits = tf.add_n([w * tf.stop_gradient(values) for w, values in zip(weights, logits, strict=True)])
        if self.combine == "sum":
            return total + self.loss(positive, logits, log_counts, allowed, self.config.margin)
        share = tf.where(allowed, tf.exp(-log_counts), 0.0)
        share = tf.math.divide_no_nan(share, tf.reduce_sum(share, axis=1, keepdims=True))
        logistic = tf.nn.softplus(-positive - self.bias) + tf.reduce_sum(share * tf.nn.softplus(logits + self.bias), axis=1)
        return total + logistic
