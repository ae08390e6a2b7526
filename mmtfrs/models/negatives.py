"""The columns that a batch of queries is contrasted with: where negatives come from, and how often each was to be expected."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.config.schema import LossConfig
from mmtfrs.utils.draws import uniform

Embed = Callable[[tf.Tensor], tf.Tensor]


class Columns(NamedTuple):
    """Attributes:

    items: `[C] int32` item rows.
    embeddings: `[C, K, D] float32`.
    log_counts: `[C] float32`, log of how often the item was to be expected among the columns.
    positives: `[B, K, D] float32`, of what each query took.
    """

    items: tf.Tensor
    embeddings: tf.Tensor
    log_counts: tf.Tensor
    positives: tf.Tensor


class Negatives(keras.layers.Layer):
    """Draws the columns of a step.

    `full`: every item that has an event. `in_batch`: what the other queries of the batch took. `mixed`: these and items drawn
    uniformly; an item's expected number is the sum of what both draws give (Yang et al., Mixed Negative Sampling, WWW
    2020, has the idea).

    Args:
        config: the loss.
        counts: `[N + 1]` training events per item row.
        beyond: what `auto` means above `full_up_to` items.

    Attributes:
        trained: `[T] int32`, item rows that have an event.
    """

    def __init__(
        self, config: LossConfig | dict, counts: Sequence[float] | np.ndarray, beyond: str = "in_batch", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        config = self.config = LossConfig.model_validate(config)
        counts = self._counts = np.asarray(counts)
        self.items = len(counts) - 1
        self._beyond = beyond
        auto = "full" if self.items <= config.full_up_to else beyond
        self.kind = auto if config.negatives == "auto" else config.negatives
        # An item without an event is no negative of anybody: it was not there to be taken, and would only be pushed down.
        trained = np.flatnonzero(counts[1:]) + 1
        self.trained = tf.constant(trained, tf.int32)
        self._places = tf.constant(np.searchsorted(trained, np.arange(len(counts))), tf.int32)
        shares = np.maximum(np.asarray(counts, np.float64), 1.0)
        shares[0] = 1.0
        self._log_share = tf.constant(np.log(shares / shares[1:].sum()), tf.float32)

    def call(self, items: tf.Tensor, embed: Embed) -> Columns:
        """`[B] int32` positives, and the function that embeds item rows."""
        if self.kind == "full":
            embeddings = embed(self.trained)
            own = tf.gather(embeddings, tf.gather(self._places, items))
            return Columns(self.trained, embeddings, tf.zeros(tf.shape(self.trained)), own)
        batch = tf.shape(items)[0]
        others = tf.cast(batch - 1, tf.float32)
        if self.kind == "mixed":
            drawn = uniform([self.config.uniform], 0, len(self.trained), tf.int32)
            columns = tf.concat([items, tf.gather(self.trained, drawn)], axis=0)
            embeddings = embed(columns)
            log_counts = self._log_counts(columns, others, self.config.uniform / len(self.trained))
            return Columns(columns, embeddings, log_counts, embeddings[:batch])
        own = embed(items)
        return Columns(items, own, self._log_counts(items, others), own)

    def width(self, batch: int) -> int:
        """How many columns a step of so many positives has."""
        return len(self.trained) if self.kind == "full" else batch + (self.config.uniform if self.kind == "mixed" else 0)

    @contextlib.contextmanager
    def from_batch(self) -> Iterator[None]:
        """Draws as `in_batch` for a while: where only a batch's own features are made anew, others would be told by theirs."""
        kind, self.kind = self.kind, "in_batch"
        try:
            yield
        finally:
            self.kind = kind

    def get_config(self) -> dict:
        mine = {"config": self.config.model_dump(mode="json"), "counts": self._counts.tolist(), "beyond": self._beyond}
        return {**super().get_config(), **mine}

    def _log_counts(self, columns: tf.Tensor, draws: tf.Tensor, uniform: float = 0.0) -> tf.Tensor:
        """`log(draws * p + uniform)` per column: drawn by frequency p, `draws` times, and uniformly.

        This is the logQ correction (Yi et al., Sampling-Bias-Corrected Neural Modeling, RecSys 2019).
        """
        frequent = tf.gather(self._log_share, columns) + tf.math.log(tf.maximum(draws, 1.0))
        return tf.math.log(tf.exp(frequent) + uniform) if uniform else frequent
