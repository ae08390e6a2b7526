"""Keras fit to the best epoch on the validation part, resumed where it was killed."""

from __future__ import annotations

import dataclasses
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmtfrs._keras import keras
from mmtfrs.config.config import Config
from mmtfrs.data.events import Events
from mmtfrs.data.id_column import IdColumn
from mmtfrs.data.splits import Split
from mmtfrs.errors import DataError, TrainingError
from mmtfrs.evaluation.blend import settle_media
from mmtfrs.evaluation.callback import ValidationMetrics
from mmtfrs.evaluation.scorers import ModelScorer, PopularityScorer
from mmtfrs.models.lazy_adam import LazyAdam
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.training.checkpoint import Checkpoint
from mmtfrs.training.divergence import Divergence

_RETURNING, _RETURNING_SHARE = 1000, 0.25  # known users, of all, from which the newest events are what epochs are chosen by
_FEW = 50
STEPS = 10  # run in one call of TensorFlow: what Python does in between would take a twentieth of the time
_SURE = 2.0  # standard errors
_TRIED, _HOPELESS = 4, 0.67  # epochs after which a model that has not this share of another's metric is given up


def fit_to_best(
    model: TwoTower,
    split: Split,
    folder: Path | None = None,
    progress: bool = False,
    tune: Callable[[TwoTower, Split], TwoTower] | None = None,
) -> tuple[TwoTower, list[dict[str, float]]]:
    """Finds the best epoch on the validation part. With `training.refit`, a model is then trained on training and validation
    events for as many epochs at the same learning rates, for newer events should not be wasted on a choice.

    A split without validation events finds the number of epochs on a part of its own training events first.

    Args:
        model: not yet trained, on the tables of `split.train`. Another may take its place: keep no reference where memory is
            scarce.
        split, folder, progress: as `fit`.
        tune: what is done to the model at its best epoch, before the refit, with the split that chose it.

    Returns:
        The model to use, and the logs of every epoch of the first training.
    """
    settings = model.config.training
    if len(split.validation) and not answerable(split, model.config):
        if progress:
            print(
                "no validation event is on an item that is new to its user: none of them can choose an epoch", file=sys.stderr
            )
        split = dataclasses.replace(split, validation=split.validation.take(np.array([], np.int64), split.train))
    inner = split
    if settings.refit is not False and not len(split.validation):
        inner = inner_split(split, model.config, model.reads_order)
    # Popularity is that of what is asked: the newest events of a log are something else where it was split in another way.
    fade = model.data.fade_for(inner.train, inner.validation) if len(inner.validation) else model.data.fade
    if inner is not split or fade != model.data.fade:
        model = _on(model, inner.train, fade)
        gc.collect()
    if progress:
        tell_fold(inner, inner is not split)
    history = fit(model, inner, folder, progress)
    if model.reads_order and model.config.model.history_encoder == "auto" and len(inner.validation):
        model, history = _or_bag(model, inner, history, folder, progress)
    if progress and len(inner.validation):
        _tell_popularity(model, inner, history)
    if tune is not None:
        model = tune(model, inner)
    if not (settings.refit or inner is not split) or not len(inner.validation):
        return model, history
    metric = f"val_{model.config.evaluation.monitor}"
    best = int(np.argmax([logs[metric] for logs in history])) + 1
    both = inner.known
    if progress:
        print(f"refitting on training and validation events, {best} epochs", file=sys.stderr)
    settled = {name: getattr(model, name).numpy() for name in ("blend", "fresh")}  # for want of unseen events later
    config, tables, encoders = model.config, model.data, model.encoders
    del model, tune  # with its optimizer it is as large as four times the weights, and not needed any more
    gc.collect()
    final = TwoTower(config, tables=tables.on(both))
    final.keep_encoders(encoders)
    for name, value in settled.items():
        getattr(final, name).assign(value)
    nothing = both.take(np.array([], np.int64))
    rates = [logs["learning_rate"] for logs in history[:best]]
    fit(final, Split(split.kind, both, nothing, nothing), folder / "refit" if folder else None, progress, rates)
    return final, history


def _or_bag(
    model: TwoTower, split: Split, history: list[dict[str, float]], folder: Path | None, progress: bool
) -> tuple[TwoTower, list[dict[str, float]]]:
    """A model that reads order, or one that does not, trained for as many epochs as were best: order is read where that is
    surely better for held-out users, for it takes longer to train and to ask."""
    metric = f"val_{model.config.evaluation.monitor}"
    values = [logs[metric] for logs in history]
    if progress:
        print("the log's order tells what comes next; beside it, a model that does not read it", file=sys.stderr)
    model.optimizer = model.train_function = None  # three times as large as the weights
    gc.collect()
    bag = TwoTower(model.config, tables=dataclasses.replace(model.data, ordered=False))
    bag.keep_encoders(model.encoders)
    best = max(values)

    def give_up(epoch: int, logs: dict) -> None:
        bag.stop_training |= epoch + 1 >= _TRIED and logs[metric] < _HOPELESS * best

    other = fit(
        bag,
        split,
        folder / "bag" if folder else None,
        progress,
        epochs=int(np.argmax(values)) + 1,
        more=[keras.callbacks.LambdaCallback(on_epoch_end=give_up)],
    )
    with_it, without = (_of_users(each, split) for each in (model, bag))
    error = (with_it - without).std() / np.sqrt(len(with_it))
    read = with_it.mean() - without.mean() > _SURE * error
    if progress:
        kept = "the order is read" if read else "the order is not read"
        told = f"{metric} {with_it.mean():.4f} with it, {without.mean():.4f} without, +- {error:.4f}"
        print(f"{kept}: {told}", file=sys.stderr)
    return (model, history) if read else (bag, other)


def _of_users(model: TwoTower, split: Split) -> np.ndarray:
    """`[n]`: the monitored metric of each user of the validation part."""
    name = model.config.evaluation.monitor
    values: list[dict[str, np.ndarray]] = []
    k = int(name.partition("@")[2])
    ValidationMetrics(split.validation).task(model).evaluate(ModelScorer(model), (k,), values)
    return np.concatenate([each[name] for each in values])


def _on(model: TwoTower, events: Events, fade: float | None = None) -> TwoTower:
    """An untrained model like this one, on another log."""
    fresh = TwoTower(model.config, tables=model.data.on(events, fade))
    fresh.keep_encoders(model.encoders)
    return fresh


def inner_split(split: Split, config: Config, reads_order: bool = False) -> Split:
    """A part of the training events set apart to find the number of epochs; the split itself where they are too few.

    A trained model is asked for users it knows. The newest events stand for what will be asked where enough of their users
    were there before; else, as in logs of which every user came once and rated many items, a random part of the events does.
    A model that reads order is asked for every user's next item, where users come back, or times are but places in an order.
    """
    share = config.data.validation_share or 0.1
    enough = min(_RETURNING, _RETURNING_SHARE * len(split.train.users.used()))
    found = split
    for kind in ("time", "random"):
        try:
            inner = split.train.split(kind, share, 0.0, config.seed)
        except DataError:
            continue
        if _shared(inner.train.items, inner.validation.items) and answerable(inner, config):
            found = inner
            if returning_users(inner) >= enough:
                break
    if reads_order and (found.kind == "time" or _are_places(split.train)):
        inner = split.train.split("user", share, 0.0)
        return inner if answerable(inner, config) else found
    return found


def _are_places(events: Events) -> bool:
    """Whether timestamps are but places in each user's sequence: no more of them than the longest has events."""
    return len(np.unique(events.timestamps)) <= np.bincount(events.users.codes).max()


def answerable(split: Split, config: Config) -> bool:
    """Whether any validation event is on an item that its user had not taken before, and so can be asked for."""
    train, asked = split.train, split.validation
    users, items = asked.users.codes_in(train.users), asked.items.codes_in(train.items)
    if config.data.repeats == "allow" or (users < 0).any() or (items < 0).any():
        return len(asked) > 0
    size = len(train.items.names)
    taken = train.users.codes.astype(np.int64) * size + train.items.codes
    return not np.isin(users.astype(np.int64) * size + items, taken).all()


def returning_users(split: Split) -> int:
    """Users of the validation part who have training events."""
    return _shared(split.train.users, split.validation.users)


def _shared(one: IdColumn, other: IdColumn) -> int:
    """How many ids both columns have."""
    codes = other.codes_in(one)
    return len(np.unique(codes[codes >= 0]))


def tell_fold(split: Split, inner: bool) -> None:
    """Says what the best epoch is chosen by, and whether that is too little."""
    users = returning_users(split)
    if inner and len(split.validation):
        share = len(split.validation) / (len(split.validation) + len(split.train))
        part = {"time": f"a newest {share:.0%} of the events", "user": "the newest event of each"}.get(
            split.kind, f"a random {share:.0%} of the events"
        )
        print(f"the best epoch is found on {part}, of {users} known users", file=sys.stderr)
    if users < _FEW and len(split.validation):
        print(f"{users} known users are too few to tell epochs apart: another seed may end at another epoch", file=sys.stderr)
    if not len(split.validation):
        print("there are too few events to set some apart: every epoch is run, and the last one is kept", file=sys.stderr)


def _tell_popularity(model: TwoTower, split: Split, history: list[dict[str, float]]) -> None:
    """Says so where a model is no better than the same list for everybody."""
    metric = model.config.evaluation.monitor
    task = ValidationMetrics(split.validation).task(model)
    counts = (model.data.item_counts[1:], model.data.faded[1:])
    plain = max(task.evaluate(PopularityScorer(each), (int(metric.partition("@")[2]),))[metric] for each in counts)
    best = max(logs[f"val_{metric}"] for logs in history)
    if best <= plain:
        print(
            f"this run does not beat popularity on validation: {metric} {best:.4f}, popularity {plain:.4f}. "
            "The log may be too short to learn from, or the items' media may say little.",
            file=sys.stderr,
        )


def fit(
    model: TwoTower,
    split: Split,
    folder: Path | None = None,
    progress: bool = False,
    rates: Sequence[float] | None = None,
    epochs: int | None = None,
    more: Sequence[keras.callbacks.Callback] = (),
) -> list[dict[str, float]]:
    """Compiles and fits a model, and leaves it at its best epoch.

    Args:
        model: not yet trained.
        split: its parts; without validation events every epoch is run and the last one is kept.
        folder: for checkpoints and TensorBoard logs; None keeps neither.
        progress: print a line per epoch on standard error.
        rates: the learning rate of each epoch, and so their number; those of the config if None.
        epochs: at most, where there are no rates; those of the config if None.
        more: further callbacks, called after those that measure, and before those that keep.

    Returns:
        The logs of every epoch.

    Raises:
        TrainingError: it has diverged; model and folder have the epochs before.
    """
    config = model.config
    optimizer = LazyAdam(config.training.learning_rate, config.training.ema_momentum)
    model.compile(optimizer=optimizer, steps_per_execution=STEPS)
    monitored = len(split.validation) > 0
    checkpoint = Checkpoint(
        folder / "training" if folder else None,
        f"val_{config.evaluation.monitor}" if monitored else None,
        config.training.patience,
        config.training.lr_decay,
    )
    done = checkpoint.resume(model)
    callbacks: list[keras.callbacks.Callback] = [Divergence()]
    measure = None
    if monitored:
        ks = {20, int(config.evaluation.monitor.partition("@")[2])}
        measure = ValidationMetrics(split.validation, tuple(sorted(ks)))
        callbacks.append(measure)
    if rates is not None:
        callbacks.append(keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch]))
    callbacks += [*more, checkpoint]
    epochs = len(rates) if rates is not None else min(epochs or config.training.epochs, config.training.epochs)
    if folder is not None and rates is None:
        callbacks.append(keras.callbacks.TensorBoard(str(folder / "logs"), write_graph=False))
    if progress:
        callbacks.append(EpochLines(epochs, checkpoint))
    if not checkpoint.finished and done < epochs:
        try:
            model.fit(model.dataset(split.train, epoch=done), epochs=epochs, initial_epoch=done, callbacks=callbacks, verbose=0)
        except TrainingError:
            checkpoint.restore_best(model)
            raise
    checkpoint.restore_best(model)
    if measure is not None:
        settle_media(model, measure.task(model), config.evaluation.monitor)
    return checkpoint.history


class EpochLines(keras.callbacks.Callback):
    """One line per epoch, on standard error so that standard output stays for results."""

    def __init__(self, epochs: int, checkpoint: Checkpoint, label: str = "epoch") -> None:
        super().__init__()
        self._epochs, self._checkpoint, self._label = epochs, checkpoint, label
        self._start = self._done = 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._start, self._done = time.monotonic(), self._checkpoint.epoch
        if self._done:
            print(f"resuming after {self._label} {self._done}", file=sys.stderr)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        checkpoint = self._checkpoint
        spent = time.monotonic() - self._start
        left = spent / (epoch + 1 - self._done) * (self._epochs - epoch - 1)
        logs = logs or {}
        value = logs.get(checkpoint.monitor) if checkpoint.monitor else None
        measured = "" if value is None else f"  {checkpoint.monitor} {value:.4f}"
        best = " (best)" if checkpoint.monitor and checkpoint.best_epoch == checkpoint.epoch else ""
        print(
            f"{self._label} {epoch + 1}/{self._epochs}  loss {logs['loss']:.4f}{measured}{best}  "
            f"{spent:.0f} s, at most {left:.0f} s left",
            file=sys.stderr,
        )
