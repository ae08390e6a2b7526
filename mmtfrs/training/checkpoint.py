"""A Keras callback that stops at the best epoch and survives being killed."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import shutil
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmtfrs._keras import keras
from mmtfrs.errors import RunError, WriteError
from mmtfrs.models.averaging import averaged
from mmtfrs.training.divergence import diverged
from mmtfrs.utils.files import remove, write_arrays, writing
from mmtfrs.utils.sums import SUMS, write_sums, wrong_file

log = logging.getLogger("mmtfrs")

_BEST, _PART = "best.npz", ".part"
_STATE = ("epoch", "best", "best_epoch", "slowed", "rate", "finished", "history")
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


class Checkpoint(keras.callbacks.Callback):
    """Early stopping, best weights and resuming in one, because a resumed training needs the state of all three. Put it behind
    the callbacks that measure or stop.

    After each epoch the folder holds a complete checkpoint, `epoch-N`: weights, the optimizer's variables, the best weights so
    far and the history; and the one before, in case a file of the newest is damaged. It is written beside and renamed, so a
    kill at any moment loses at most the epoch in flight. The best weights are in memory only where there is no folder.

    Args:
        folder: where checkpoints are kept; None keeps none and cannot resume.
        monitor: name in the epoch's logs, higher is better; None takes the last epoch as the best.
        patience: epochs without a better value before training stops.
        lr_decay: the learning rate falls by this factor after half of the patience; 0 leaves it.
    """

    def __init__(self, folder: Path | None, monitor: str | None, patience: int, lr_decay: float = 0.0) -> None:
        super().__init__()
        self.folder = folder
        self.monitor = monitor
        self.patience = patience
        self.lr_decay = lr_decay
        self.epoch = 0  # epochs completed
        self.best: float | None = None
        self.best_epoch = 0
        self.slowed = 0  # epoch after which the learning rate last fell
        self.rate = 0.0  # the learning rate of the next epoch, which is none of the optimizer's variables
        self.finished = False  # patience has run out, or another callback has stopped the training
        self.history: list[dict[str, float]] = []
        self._best_weights: list[np.ndarray] = []
        self._began = 0.0

    def begin(self, model: keras.Model, value: float | None) -> None:
        """Takes what a model has now for the weights of epoch 0, which later ones must be better than."""
        self.best, self._best_weights = value, model.get_weights()

    def resume(self, model: keras.Model) -> int:
        """Puts a compiled model into the state of the last complete epoch, and returns how many are done."""
        found = sorted(path for path in _complete(self.folder) if _whole(path)) if self.folder else []
        if not found:
            return 0
        try:
            state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
            model.optimizer.build(model.trainable_variables)
            with np.load(found[-1] / "arrays.npz") as arrays:
                model.set_weights([arrays[f"weight-{n}"] for n in range(len(model.weights))])
                for number, variable in enumerate(model.optimizer.variables):
                    variable.assign(arrays[f"optimizer-{number}"])
            np.load(found[-1] / _BEST).close()
            for name in _STATE:
                setattr(self, name, state[name])
            model.optimizer.learning_rate = self.rate
        except _DAMAGE as error:
            raise _damaged(found[-1], error) from error
        self._best_weights = []  # of `begin`
        return self.epoch

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        for name, each in logs.items():
            if not math.isfinite(each):  # before anything is noted: such an epoch is none, let alone the best
                raise diverged(self.model, epoch + 1, f"{name} is {each}")
        self.epoch = epoch + 1
        rate = self.model.optimizer.learning_rate
        self.history.append(logs | {"learning_rate": float(rate), "seconds": time.monotonic() - self._began})
        value = logs.get(self.monitor) if self.monitor else float(self.epoch)
        if value is None:
            raise RunError(f"the logs have no `{self.monitor}`. Received: {', '.join(logs)}.")
        if self.best is None or value > self.best:
            self.best, self.best_epoch = value, self.epoch
            self._best_weights = []  # not two of them at once
            if self.folder is None:
                with averaged(self.model):
                    self._best_weights = self.model.get_weights()
        if self.lr_decay and self.monitor and self.epoch - max(self.best_epoch, self.slowed) >= max(self.patience // 2, 1):
            self.slowed = self.epoch
            rate.assign(rate * self.lr_decay)
        self.rate = float(rate)
        self.model.stop_training |= self.monitor is not None and self.epoch - self.best_epoch >= self.patience
        self.finished = self.model.stop_training
        if self.folder is not None:
            self._write(self.folder)

    def restore_best(self, model: keras.Model) -> None:
        """Gives the model the weights of its best epoch, averaged where the optimizer averages."""
        if self._best_weights:
            model.set_weights(self._best_weights)
        elif self.folder is not None and self.epoch:
            path = _place(self.folder, self.epoch)
            try:
                with np.load(path / _BEST) as arrays:
                    for number, weight in enumerate(model.weights):
                        weight.assign(arrays[f"weight-{number}"])
            except _DAMAGE as error:
                raise _damaged(path, error) from error

    def _write(self, folder: Path) -> None:
        path = _place(folder, self.epoch)
        part = path.with_suffix(_PART)
        remove(part)
        try:
            with writing(path):
                self._fill(part)
                remove(path)  # of an earlier, killed attempt at this epoch
                part.rename(path)
        except WriteError:
            remove(part)  # a full disk needs the room
            raise
        for old in folder.glob("epoch-*"):
            if old not in (path, _place(folder, self.epoch - 1)):
                remove(old)

    def _fill(self, part: Path) -> None:
        folder = part.parent
        part.mkdir(parents=True)
        self._write_best(part / _BEST, _place(folder, self.epoch - 1) / _BEST)
        weights = ((f"weight-{n}", each.numpy()) for n, each in enumerate(self.model.weights))
        optimizer = ((f"optimizer-{n}", each.numpy()) for n, each in enumerate(self.model.optimizer.variables))
        _save(part / "arrays.npz", itertools.chain(weights, optimizer))
        (part / "state.json").write_text(json.dumps({name: getattr(self, name) for name in _STATE}), encoding="utf-8")
        write_sums(part / SUMS, {each.name: each for each in part.iterdir()})

    def _write_best(self, path: Path, before: Path) -> None:
        if self.best_epoch == self.epoch:
            with averaged(self.model):
                _save(path, ((f"weight-{n}", each.numpy()) for n, each in enumerate(self.model.weights)))
        elif self._best_weights:  # of before the first epoch
            _save(path, ((f"weight-{n}", each) for n, each in enumerate(self._best_weights)))
            self._best_weights = []
        else:
            shutil.copyfile(before, path)
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what it is a copy of will be gone


def _whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written; one that is not is told."""
    if not (path / SUMS).exists():  # half removed, by a kill
        return False
    wrong = wrong_file(path, path / SUMS)
    if wrong:
        log.warning("%s: the checkpoint is damaged (%s). The training goes on without it.", path, wrong)
    return not wrong


def _place(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:05d}"


def _complete(folder: Path) -> list[Path]:
    """All checkpoints but those of which a kill has left a part."""
    return [path for path in folder.glob("epoch-*") if path.suffix != _PART]


def _save(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    with path.open("wb") as file:
        write_arrays(file, arrays)
        file.flush()
        os.fsync(file.fileno())


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path}: the checkpoint is damaged ({error}). Remove the run to start anew.")
