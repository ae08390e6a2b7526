"""A Keras callback that ends a training which has diverged."""

from __future__ import annotations

import math
from typing import Any

from mmtfrs._keras import keras
from mmtfrs.errors import TrainingError
from mmtfrs.utils.finite import not_finite


class Divergence(keras.callbacks.Callback):
    """Raises `TrainingError` as soon as the loss, and at the end of an epoch the weights, are no finite numbers.

    The loss is the one that Keras reports for each execution. It is read when the next execution has been started, so that a
    device never waits for it. Put it before the callbacks that read or keep what an epoch gave.
    """

    _supports_tf_logs = True  # else Keras would fetch all logs after every execution

    def __init__(self) -> None:
        super().__init__()
        self._epoch = self._step = 0
        self._loss: Any = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, self._loss = epoch + 1, None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._check_loss()
        self._step, self._loss = batch + 1, (logs or {}).get("loss")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._check_loss()
        if name := not_finite(self.model.trainable_variables):
            raise diverged(self.model, self._epoch, f"the weights {name} are not finite")

    def _check_loss(self) -> None:
        if self._loss is not None and not math.isfinite(loss := float(self._loss)):
            raise diverged(self.model, self._epoch, f"by step {self._step} the loss is {loss}")


def diverged(model: keras.Model, epoch: int, what: str) -> TrainingError:
    """The error of a training whose epoch in flight is worth nothing."""
    kept = f" Epoch {epoch - 1} is kept." if epoch > 1 else ""
    return TrainingError(
        f"the training has diverged in epoch {epoch}: {what}.{kept} Train anew with a lower learning rate "
        f"({float(model.optimizer.learning_rate):g} now); else look for event weights or features far larger than the others."
    )
