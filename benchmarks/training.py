"""A training step of the default model, beside a plain TFRS two-tower model on the same features.

The baseline is what the TFRS tutorials build: a user embedding against a 256-64 tower over the item's 2 816 features; in-batch
softmax, Adam, no history. Once with the features taken in `tf.data`, event by event, as the tutorials do, and once from a table
on the device.

    python -m benchmarks.training [--part features|growth|long] [--items 10000] [--events 200000]

`growth`: a step of ids and histories alone as the catalog and the users grow, beside the same step at the first size. `long`: a
log whose histories have 126 items in the mean and 1 500 at most, of 20 000; run it with PYTHONPATH at another checkout as well.
"""

from __future__ import annotations

import argparse
import functools
import time

import numpy as np

import mmtfrs  # first: it chooses Keras 2
from benchmarks._measure import compare
from mmtfrs._keras import keras, tf, tfrs
from mmtfrs.features.features import Features
from mmtfrs.models.lazy_adam import LazyAdam
from mmtfrs.training.fit import STEPS

DIMS = {"image": 1280, "text": 512, "audio": 1024}


class PlainTFRS(tfrs.Model):
    """User embedding, item features through 256-64, in-batch softmax."""

    def __init__(self, users: int, features: np.ndarray) -> None:
        super().__init__()
        self.query = keras.Sequential([keras.layers.Embedding(users, 64)])
        self.candidate = keras.Sequential([keras.layers.Dense(256, activation="relu"), keras.layers.Dense(64)])
        self.task = tfrs.tasks.Retrieval()
        self.table = tf.Variable(features, trainable=False)

    def compute_loss(self, inputs, training=False):
        features = inputs["features"] if "features" in inputs else tf.gather(self.table, inputs["item"])
        return self.task(self.query(inputs["user"]), self.candidate(features), compute_metrics=False)


GROWTH = (
    (20_000, 10_000, 46_000),
    (432_000, 200_000, 1_000_000),
    (100_000, 10_000, 1_000_000),
    (100_000, 1_000_000, 1_000_000),
)
TIMED = 40


def growth() -> None:
    """A line per size: milliseconds of a step, and how many times those of the size before, with which it is compared."""
    rounds = [[_step(*size) for size in GROWTH] for _ in range(2)]
    spent = np.min(rounds, axis=0)
    for place, (users, items, events) in enumerate(GROWTH):
        first = spent[place // 2 * 2]
        size = f"{users:>9} users {items:>9} items {events:>9} events"
        print(f"{size} {1000 * spent[place]:8.1f} ms {spent[place] / first:6.2f} times")


def _step(users: int, items: int, events: int) -> float:
    """Seconds of a step of ids and histories."""
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(items)]
    rows = np.minimum(items * rng.power(0.5, events), items - 1).astype(int)
    log = mmtfrs.Events([f"u{row}" for row in rng.integers(0, users, events)], [ids[row] for row in rows], np.arange(events))
    config = mmtfrs.Config(loss={"negatives": "in_batch"})
    return _median(mmtfrs.TwoTower(config, mmtfrs.Catalog.from_dict({"item_id": ids}), Features({}), log), log)


def long_histories() -> None:
    """Milliseconds of a step, without and with media."""
    rng, users, items = np.random.default_rng(0), 6_000, 20_000
    sizes = np.clip(np.exp(rng.normal(4.35, 1.0, users)), 5, 1_500).astype(int)
    sizes[0] = 1_500
    ids = [f"i{row}" for row in range(items)]
    taken = np.concatenate([rng.choice(items, size, False) for size in sizes])
    log = mmtfrs.Events(
        [f"u{row}" for row in np.repeat(np.arange(users), sizes)],
        [ids[row] for row in taken],
        rng.integers(0, 10**6, len(taken)),
    )
    values = {name: rng.normal(size=(items, dim)).astype(np.float32) for name, dim in DIMS.items()}
    for what, features, model in (
        ("ids", Features({}), {}),
        ("ids and three modalities", Features.from_arrays(values), {"modalities": ("image", "text", "audio")}),
    ):
        config = mmtfrs.Config(loss={"negatives": "in_batch"}, model=model)
        towers = mmtfrs.TwoTower(config, mmtfrs.Catalog.from_dict({"item_id": ids}), features, log)
        spent = _median(towers, log)
        print(f"{what:<30} {1000 * spent:8.1f} ms {config.training.batch_size / spent:12,.0f} examples/s")


def _median(model: mmtfrs.TwoTower, log: mmtfrs.Events) -> float:
    """Seconds of a step: the median of many, each waited for."""
    model.compile(optimizer=LazyAdam(0.001))
    function, batches = model.make_train_function(), iter(model.dataset(log).repeat())
    spent = []
    for _ in range(TIMED):
        start = time.perf_counter()
        float(function(batches)["loss"])
        spent.append(time.perf_counter() - start)
    return float(np.median(spent[5:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["features", "growth", "long"], default="features")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--events", type=int, default=200_000)
    options = parser.parse_args()
    if options.part != "features":
        growth() if options.part == "growth" else long_histories()
        return
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(options.items, dim)).astype(np.float32) for name, dim in DIMS.items()}
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{row}" for row in range(options.items)]})
    users, items = rng.integers(0, options.users, options.events), rng.integers(0, options.items, options.events)
    events = mmtfrs.Events([f"u{row}" for row in users], [f"i{row}" for row in items], np.arange(options.events))
    config = mmtfrs.Config(model={"modalities": ("image", "text", "audio")})  # random ones, which say nothing
    batch = config.training.batch_size
    model = mmtfrs.TwoTower(config, catalog, Features.from_arrays(values), events)
    model.compile(optimizer=LazyAdam(0.001), steps_per_execution=STEPS)  # as `mmtfrs train` does
    dataset = model.dataset(events)
    plain = PlainTFRS(options.users + 1, np.concatenate(list(values.values()), axis=1))
    plain.compile(optimizer=keras.optimizers.Adam(0.001))
    table, rows = tf.constant(plain.table), {"user": users.astype(np.int32), "item": items.astype(np.int32)}
    shuffled = tf.data.Dataset.from_tensor_slices(rows).shuffle(options.events)
    on_device = shuffled.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    in_data = shuffled.map(lambda row: {"user": row["user"], "features": table[row["item"]]}, tf.data.AUTOTUNE)
    in_data = in_data.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    seen = options.events // batch * batch

    def fit(which: tfrs.Model, data: tf.data.Dataset) -> int:
        which.fit(data, epochs=1, verbose=0)
        return seen

    print(
        f"{options.events} events, {options.items} items, {sum(DIMS.values())} features, batch {batch}, histories of "
        f"{options.events // options.users} items on average"
    )
    for where, plain_dataset in (("taken in tf.data", in_data), ("in a table on the device", on_device)):
        plain.train_function = None
        compare(
            f"plain TFRS two-tower, features {where}",
            lambda: fit(model, dataset),
            functools.partial(fit, plain, plain_dataset),
            "examples",
        )


if __name__ == "__main__":
    main()
