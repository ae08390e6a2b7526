"""Training batches: rows of integers, looked up on the device."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.config import Config
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.histories import Histories
from mmtfrs.models.packing import Packed, pack
from mmtfrs.models.windows import Windows
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
        self.histories = Histories(tables, events)
        kept = self.histories.kept
        if not len(kept):
            raise DataError("no event is on an item of the catalog, so there is nothing to train on.")
        users = tables.user_rows(events.users.take(kept))
        self.columns = {
            "user": users,
            "item": self.histories.lists.items,
            "weight": events.weights[kept] * balance(users, config.loss.user_balance),
        }
        if not self.columns["weight"].any():
            raise DataError(
                "every training event has the weight 0, so nothing would be learned. Give those that count one above 0, or "
                "leave the column out."
            )
        if config.loss.rating:
            if events.ratings is None:
                raise DataError(
                    "the rating task (`loss.rating`) needs events with ratings. Received: a log without a `rating` column."
                )
            self.columns["rating"] = events.ratings[kept]

    def dataset(self, shuffle: bool = True, batch_size: int | None = None, epoch: int = 0) -> tf.data.Dataset:
        """See `TwoTower.dataset`."""
        size = min(batch_size or self.config.training.batch_size, len(self.columns["item"]))
        made = self._sequences(shuffle, size, epoch) if self.reads_order else self._bags(shuffle, size, epoch)
        # Gathering rows takes a millisecond a batch: one thread is enough, and more would take cores from the step.
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.autotune.enabled = False
        return made.prefetch(2).with_options(options)

    def _bags(self, shuffle: bool, size: int, epoch: int) -> tf.data.Dataset:
        """An event a row, with the history around it."""
        count, seed, model = len(self.columns["item"]), self.config.seed, self.config.model
        steps = count // size
        windows = Windows(self.histories.lists, model.history_length, model.history == "all", self.tables.items)
        columns = {name: tf.constant(values) for name, values in self.columns.items()}

        def batch_of(step: tf.Tensor, entries: tf.Tensor) -> dict[str, tf.Tensor]:
            batch = {name: tf.gather(values, entries) for name, values in columns.items()}
            return batch | windows(entries, tf.stack([tf.constant(seed, tf.int64), step]))

        def order(epoch: int) -> tuple[np.ndarray, np.ndarray]:
            rows = np.random.default_rng((seed, epoch)).permutation(count)
            return epoch * steps + np.arange(steps), rows[: steps * size].reshape(steps, size)

        if not shuffle:
            return tf.data.Dataset.range(count).batch(size).enumerate().map(batch_of)
        return _by_epoch(order, epoch, ((steps,), np.int64), ((steps, size), np.int64)).map(batch_of)

    def _sequences(self, shuffle: bool, size: int, epoch: int) -> tf.data.Dataset:
        """Rows of several sequences each. An event's query stands behind the event before it, or a sequence's beginning."""
        count, starts, seed = len(self.columns["item"]), self.histories.lists.starts, self.config.seed
        longest = int(self.histories.lists.counts.max())
        length = min(LONGEST, max(8, 1 << (longest - 1).bit_length()), size)
        each = min(max(size // length, 1), -(-count // length))  # rows of a batch
        rows = len(pack(starts, length, seed, 0).entries)
        steps = rows // each if shuffle else -(-rows // each)
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

        def packed(epoch: int) -> tuple[np.ndarray, ...]:
            found = pack(starts, length, seed, epoch if shuffle else 0)
            if shuffle:  # as many rows in each epoch: a few are left out, or come twice
                found = Packed(*(np.resize(values, (steps * each, length)) for values in found))
            else:
                found = found.padded(steps * each)
            return tuple(values.reshape(steps, each, length) for values in found)

        shape = steps, each, length
        return _by_epoch(packed, epoch, (shape, np.int64), (shape, np.int32), (shape, np.int32)).map(batch_of)


def _by_epoch(
    make: Callable[[int], tuple[np.ndarray, ...]], first: int, *kinds: tuple[tuple[int, ...], type]
) -> tf.data.Dataset:
    """What `make` gives of an epoch, arrays of these shapes and types, a step at a time; epoch `first` comes first."""
    epochs = itertools.count(first)
    signature = tuple(tf.TensorSpec(*kind) for kind in kinds)
    dataset = tf.data.Dataset.from_generator(lambda: iter([make(next(epochs))]), output_signature=signature)
    dataset = dataset.flat_map(lambda *values: tf.data.Dataset.from_tensor_slices(values))
    return dataset.apply(tf.data.experimental.assert_cardinality(kinds[0][0][0]))


def balance(users: np.ndarray, power: float) -> np.ndarray:
    """`[n]` user rows, one per event -> `[n] float32` weights: `n ** -power`, n the events of the user,
    and 1 in the mean. The loss counts events, the metrics count users: what is between them decides who is served best."""
    weights = np.bincount(users)[users].astype(np.float32) ** -power
    return weights / weights.mean()
