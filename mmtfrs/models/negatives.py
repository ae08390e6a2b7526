"""The columns that a batch of queries is contrasted with: where negatives come from, and how often each was to be expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.errors import ConfigError
from mmtfrs.models.frequencies import PER_REPLICA, StreamingFrequencies
from mmtfrs.sections import LossConfig

Embed = Callable[[tf.Tensor], tf.Tensor]


class Columns(NamedTuple):
    """Attributes:

    items: `[C] int32` item rows.
    embeddings: `[C, W] float32`.
    log_counts: `[C] float32`, log of how often the item was to be expected among the columns.
    positives: `[B, W] float32`, of what each query took.
    batch: None, or the columns of the batch alone where others carry no gradient.
    """

    items: tf.Tensor
    embeddings: tf.Tensor
    log_counts: tf.Tensor
    positives: tf.Tensor
    batch: Columns | None = None

    def frozen(self) -> Columns:
        """The same without a gradient."""
        return Columns(self.items, tf.stop_gradient(self.embeddings), self.log_counts, tf.stop_gradient(self.positives))


class Negatives(keras.layers.Layer):
    """Draws the columns of a step.

    `full`: every item that has an event. `in_batch`: what the other queries of the batch took. `mixed`: these and items drawn
    uniformly; an item's expected number is the sum of what both draws give (Yang et al., Mixed Negative Sampling, WWW
    2020, has the idea). `memory`: these and the candidates of earlier batches, without gradient (Wang et al., Cross-Batch
    Negative Sampling, SIGIR 2021). `hard` takes the items of the batch, each once; the objective keeps the hardest.

    Args:
        config: the loss.
        counts: `[N + 1]` training events per item row.
        width: W, size of an embedding.
    """

    def __init__(self, config: LossConfig, counts: np.ndarray, width: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.items = len(counts) - 1
        self.width = width
        auto = "full" if self.items <= config.full_up_to and not config.mined else "in_batch"
        self.kind = auto if config.negatives == "auto" else config.negatives
        if self.kind == "full" and config.mined:
            raise ConfigError("`loss.mined` needs other `loss.negatives` than full: every item is a negative there already.")
        for name, used in (("hard", self.kind == "hard"), ("mined", config.mined > 0)):
            if used and getattr(config, name) >= self.items:
                raise ConfigError(
                    f"`loss.{name}` must be less than the number of items. "
                    f"Received: {getattr(config, name)} negatives, {self.items} items."
                )
        # An item without an event is no negative of anybody: it was not there to be taken, and would only be pushed down.
        trained = np.flatnonzero(counts[1:]) + 1
        self._trained = tf.constant(trained, tf.int32)
        self._places = tf.constant(np.searchsorted(trained, np.arange(len(counts))), tf.int32)
        shares = np.maximum(np.asarray(counts, np.float64), 1.0)
        shares[0] = 1.0
        self._log_share = tf.constant(np.log(shares / shares[1:].sum()), tf.float32)
        if config.frequencies == "streaming":
            self.frequencies = StreamingFrequencies(self.items + 1, name="frequencies")

    def build(self, input_shape) -> None:
        if self.kind == "memory":
            size = self.config.memory
            # Not saved with a model: what earlier batches held means nothing to another process.
            self._memory = tf.Variable(tf.zeros([size, self.width]), trainable=False, **PER_REPLICA)
            self._memory_items = tf.Variable(tf.zeros([size], tf.int32), trainable=False, **PER_REPLICA)
            self._filled = tf.Variable(0, trainable=False, **PER_REPLICA)
        super().build(input_shape)

    def call(self, items: tf.Tensor, embed: Embed) -> Columns:
        """`[B] int32` positives, and the function that embeds item rows."""
        if self.kind == "full":
            embeddings = embed(self._trained)
            own = tf.gather(embeddings, tf.gather(self._places, items))
            return Columns(self._trained, embeddings, tf.zeros(tf.shape(self._trained)), own)
        batch = tf.shape(items)[0]
        others = tf.cast(batch - 1, tf.float32)
        if self.kind == "mixed":
            drawn = tf.random.uniform([self.config.uniform], 0, len(self._trained), tf.int32)
            columns = tf.concat([items, tf.gather(self._trained, drawn)], axis=0)
            embeddings = embed(columns)
            log_counts = self._log_counts(self._log_shares(columns, items), others, self.config.uniform / len(self._trained))
            return Columns(columns, embeddings, log_counts, embeddings[:batch])
        own = embed(items)
        if self.kind == "memory":
            columns = tf.concat([items, self._memory_items], axis=0)
            embeddings = tf.concat([own, self._memory], axis=0)
            draws = others + tf.cast(self._filled, tf.float32)
            shares = self._log_shares(columns, items)
            alone = Columns(items, own, self._log_counts(shares[:batch], others), own)
            with tf.control_dependencies([embeddings, columns, draws]):
                self._remember(items, own)
            return Columns(columns, embeddings, self._log_counts(shares, draws), own, alone)
        log_counts = self._log_counts(self._log_shares(items, items), others)
        if self.kind == "hard":  # an item once, for all its copies: else these would be all that is hard
            same = items[:, None] == items[None]
            before = tf.linalg.band_part(same, -1, 0) & ~tf.eye(batch, dtype=tf.bool)
            log_counts -= tf.math.log(tf.reduce_sum(tf.cast(same, tf.float32), axis=1))
            return Columns(tf.where(tf.reduce_any(before, axis=1), 0, items), own, log_counts, own)
        return Columns(items, own, log_counts, own)

    def _log_shares(self, columns: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """`log p` per column, the chance that an event is on it."""
        if self.config.logq_correction and self.config.frequencies == "streaming":
            self.frequencies(items)
            return self.frequencies.log_counts(columns) - tf.math.log(tf.cast(tf.shape(items)[0], tf.float32))
        return tf.gather(self._log_share, columns)

    def _log_counts(self, log_shares: tf.Tensor, draws: tf.Tensor, uniform: float = 0.0) -> tf.Tensor:
        """`log(draws * p + uniform)` per column: by frequency drawn `draws` times, and uniformly."""
        if not self.config.logq_correction:
            return tf.zeros_like(log_shares)
        frequent = log_shares + tf.math.log(tf.maximum(draws, 1.0))
        return tf.math.log(tf.exp(frequent) + uniform) if uniform else frequent

    def _remember(self, items: tf.Tensor, embeddings: tf.Tensor) -> None:
        size = self.config.memory
        self._memory.assign(tf.concat([tf.stop_gradient(embeddings), self._memory], axis=0)[:size])
        self._memory_items.assign(tf.concat([items, self._memory_items], axis=0)[:size])
        self._filled.assign(tf.minimum(self._filled + tf.shape(items)[0], size))


class MinedNegatives:
    """Per user, the items that the model itself ranks highest and the user is not known to have taken.

    Args:
        user_rows: number of user rows, row 0 included.
        count: h, items per user.
    """

    def __init__(self, user_rows: int, count: int) -> None:
        self.count = count
        self.table = tf.Variable(np.zeros((user_rows, count), np.int32), trainable=False, name="mined")

    def refresh(
        self, users: np.ndarray, queries: np.ndarray, candidates: np.ndarray, known: Callable, chunk: int = 512
    ) -> None:
        """Ranks the catalogue for these users: `[n]` rows, `[n, W]`, `[N, W]`, and what each user knows."""
        catalogue = tf.constant(candidates)
        for start in range(0, len(users), chunk):
            rows = tf.constant(users[start : start + chunk], tf.int32)
            scores = tf.matmul(tf.constant(queries[start : start + chunk]), catalogue, transpose_b=True)
            best = tf.math.top_k(tf.where(known(rows), tf.float32.min, scores), self.count).indices + 1
            self.table.scatter_nd_update(rows[:, None], best)

    def __call__(self, users: tf.Tensor) -> tf.Tensor:
        """`[B]` user rows -> `[B, h]` item rows, 0 before the first mining."""
        return tf.gather(self.table, users)
