"""Training batches: rows of integers, looked up on the device."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.config import Config
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.histories import Histories


class TrainingRows:
    """The rows of a log, ready to be batched.

    Args:
        config: history, batch size and seed.
        tables: rows of ids.
        events: the training log; events on unknown items are left out.

    Raises:
        DataError: no event is on an item of the catalog, or the rating task is asked of a log without ratings.
    """

    def __init__(self, config: Config, tables: ModelInputs, events: Events) -> None:
        self.config = config
        self.tables = tables
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
        past = self.histories.around if self.config.model.history == "all" else self.histories.before
        columns = {name: tf.constant(values) for name, values in self.columns.items()}

        def rows(entries: tf.Tensor) -> dict[str, tf.Tensor]:
            return {name: tf.gather(values, entries) for name, values in columns.items()} | {"history": past(entries)}

        dataset = tf.data.Dataset.range(count)
        if shuffle:
            dataset = dataset.shuffle(min(count, 1 << 20), seed=self.config.seed, reshuffle_each_iteration=True)
        # Gathering rows takes a millisecond a batch: one thread is enough, and more would take cores from the step.
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.autotune.enabled = False
        return dataset.batch(size, drop_remainder=shuffle).map(rows).prefetch(2).with_options(options)


def balance(users: np.ndarray, power: float) -> np.ndarray:
    """`[n]` user rows, one per event -> `[n] float32` weights: `n ** -power`, n the events of the user,
    and 1 in the mean. The loss counts events, the metrics count users: what is between them decides who is served best."""
    weights = np.bincount(users)[users].astype(np.float32) ** -power
    return weights / weights.mean()
