"""A training that was killed, within epochs and between them, ends in the bits of one that was not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FAST
from models.test_two_tower import planted

import mmtfrs
from mmtfrs._keras import keras
from mmtfrs.models import lazy_adam
from mmtfrs.training.fit import fit

# Between them they have every stream that a step draws from, and every state that outlives an epoch.
KINDS = {
    "bag": {"model": {"history_encoder": "bag"}},
    "order": {"model": {"history_encoder": "transformer"}, "loss": {"negatives": "mixed", "uniform": 20}},
    "terms": {
        "model": {"history_encoder": "bag", "missing": "generator", "history": "past", "fusion": "late_sum"},
        "loss": {"alignment": 0.1, "rating": 0.5, "negatives": "in_batch"},
        "training": {"mixed_precision": True, "ema_momentum": 0.0},
    },
}


class Killed(BaseException):
    pass


class _Kill(keras.callbacks.Callback):
    """Ends a training behind a step, or with step None behind an epoch and its checkpoint."""

    def __init__(self, epoch: int, step: int | None = None) -> None:
        super().__init__()
        self.at, self.epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.at == (epoch - 1, None):
            raise Killed

    def on_train_batch_end(self, batch, logs=None):
        if self.at[1] is not None and (self.epoch, batch) >= self.at:
            raise Killed


def _model(**settings):
    catalog, features, events = planted()
    if "rating" in settings.get("loss", {}):
        ratings = np.random.default_rng(1).integers(1, 6, len(events)).astype(np.float32)
        events = mmtfrs.Events(events.users, events.items, events.timestamps, None, ratings)
    split = events.split("time")
    base = {**FAST, "training": {**FAST["training"], "epochs": 5, "batch_size": 32}}
    return mmtfrs.TwoTower(mmtfrs.Config(**base).replace(**settings), catalog, features, split.train), split


def _bits(model, history):
    logs = [{name: value for name, value in each.items() if name != "seconds"} for each in history]
    return [weight.numpy().tobytes() for weight in model.weights], logs


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_of_any_number_of_kills(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(lazy_adam, "ROWS", 50)  # tables of ids are updated by their rows
    model, split = _model(**KINDS[kind])
    whole = _bits(model, fit(model, split))
    for kill in (_Kill(1, None), _Kill(3, 5)):
        with pytest.raises(Killed):
            fit(_model(**KINDS[kind])[0], split, tmp_path, more=[kill])
    model, _ = _model(**KINDS[kind])
    assert _bits(model, fit(model, split, tmp_path)) == whole
