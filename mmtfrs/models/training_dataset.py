"""Training batches: rows of integers, looked up on the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.config import Config
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.histories import Histories
from mmtfrs.models.packing import Packed, pack
from mmtfrs.towers.history_transformer import LONGEST


class TrainingRows:
    """The rows of a log, ready to be batched.

    Args:
        config: history, batch size and seed.
        tables: rows of ids.
        events: the training log; events on unknown items are left out.
        reads_order: whether batches are whole sequences.

    Raises:
        DataError: no event is on an item of the catalog, or the rating task is asked of a log without ratings.
    """

    def __init__(self, config: Config, tables: ModelInputs, events: Events, reads_order: bool = False) -> None:
        self.config = config
        self.tables = tables
        self.reads_order = reads_order
        self.histories = Histories(tables, events, config.model.history_length)
        kept = self.histories.kept
        if not len(kept):
            raise DataError("no event is on an item of the catalog, so there is nothing to train on.")
        users = tables.user_rows(events.user_ids[kept])
        self.columns = {
            "user": users,
            "item": self.histories.items,
            "weight": events.weights[kept] * balance(users, config.loss.user_balance),
        }
        if config.loss.rating:
            if events.ratings is None:
                raise DataError(
                    "the rating task (`loss.rating`) needs events with ratings. Received: a log without a `rating` column."
                )
            self.columns["rating"] = events.ratings[kept]

    def dataset(self, shuffle: bool = True, batch_size: int | None = None) -> tf.data.Dataset:
        """See `TwoTower.dataset`."""
        count = len(self.columns["item"])
        size = min(batch_size or self.config.training.batch_size, count)
        if self.reads_order:
            return self._sequences(shuffle, size)
        past = self.histories.around if self.config.model.history == "all" else self.histories.before
        columns = {name: tf.constant(values) for name, values in self.columns.items()}

        def rows(entries: tf.Tensor) -> dict[str, tf.Tensor]:
            return {name: tf.gather(values, entries) for name, values in columns.items()} | {"history": past(entries)}

        dataset = tf.data.Dataset.range(count)
        if shuffle:
            dataset = dataset.shuffle(min(count, 1 << 20), seed=self.config.seed, reshuffle_each_iteration=True)
        return dataset.batch(size, drop_remainder=shuffle).map(rows).prefetch(2).with_options(_options())

    def _sequences(self, shuffle: bool, size: int) -> tf.data.Dataset:
        """Rows of several sequences each. An event's query stands behind the event before it, or a sequence's beginning."""
        count, starts = len(self.columns["item"]), self.histories.starts
        longest = int(np.diff(starts).max())
        length = min(LONGEST, max(8, 1 << (longest - 1).bit_length()), size)
        each = min(max(size // length, 1), -(-count // length))  # rows of a batch
        rows = len(pack(starts, length, self.config.seed, 0).entries)
        rows -= rows % each if shuffle else 0
        epochs = itertools.count() if shuffle else itertools.repeat(0)

        def packed() -> Iterator[Packed]:
            # Keras wants as many batches in each epoch: a few rows are left out, or come twice.
            yield Packed(*(np.resize(each, (rows, length)) for each in pack(starts, length, self.config.seed, next(epochs))))

        # Behind the last event one that is nobody's, for padding.
        columns = {name: tf.constant(np.append(values, np.zeros(1, values.dtype))) for name, values in self.columns.items()}
        before = np.append(0, self.columns["item"][:-1]).astype(np.int32)
        before[starts[:-1]] = 0
        columns["before"] = tf.constant(np.append(before, 0), tf.int32)

        def batch_of(entries: tf.Tensor, places: tf.Tensor, parts: tf.Tensor) -> dict[str, tf.Tensor]:
            at = tf.where(entries < 0, tf.constant(count, tf.int64), entries)
            batch = {name: tf.gather(values, at) for name, values in columns.items()}
            # The mean over a batch is the mean over its events.
            batch["weight"] *= tf.cast(tf.size(entries) / tf.math.count_nonzero(parts, dtype=tf.int32), tf.float32)
            return batch | {"place": places, "part": parts}

        dataset = tf.data.Dataset.from_generator(
            packed, output_signature=tuple(tf.TensorSpec([rows, length], kind) for kind in (tf.int64, tf.int32, tf.int32))
        ).flat_map(lambda *values: tf.data.Dataset.from_tensor_slices(values))
        dataset = dataset.batch(each, drop_remainder=shuffle).map(batch_of).prefetch(2).with_options(_options())
        return dataset.apply(tf.data.experimental.assert_cardinality(-(-rows // each)))


def _options() -> tf.data.Options:
    """Gathering rows takes a millisecond a batch: one thread is enough, and more would take cores from the step."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    return options


def balance(users: np.ndarray, power: float) -> np.ndarray:
    """`[n]` user rows, one per event -> `[n] float32` weights: `n ** -power`, n the events of the user,
    and 1 in the mean. The loss counts events, the metrics count users: what is between them decides who is served best."""
    weights = np.bincount(users)[users].astype(np.float32) ** -power
    return weights / weights.mean()
