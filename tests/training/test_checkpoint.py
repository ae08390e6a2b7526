"""Everything that a training decides by outlives a kill: tried on a model of one weight, with metrics made up for each epoch."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mmtfrs._keras import keras
from mmtfrs.errors import RunError
from mmtfrs.models.lazy_adam import LazyAdam
from mmtfrs.training.checkpoint import Checkpoint
from mmtfrs.utils.sums import SUMS, write_sums

_X = np.linspace(-1.0, 1.0, 32, dtype=np.float32)[:, None]
_Y = np.sin(3.0 * _X)
_EPOCHS = 12


class _Metric(keras.callbacks.Callback):
    """Gives each epoch its value; `stop` ends the training behind an epoch, `kill` before the next one begins."""

    def __init__(self, values, stop=None, kill=None):
        super().__init__()
        self.values, self.stop, self.kill = values, stop, kill

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.kill:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        logs["val"] = self.values[epoch]
        self.model.stop_training |= epoch == self.stop


def _fit(folder, values, **metric):
    """`(the weight, everything noted)` after a training, which goes on where one in this folder has ended."""
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.build((None, 1))
    model.compile(optimizer=LazyAdam(0.1, 0.9), loss="mse", run_eagerly=True)
    checkpoint = Checkpoint(folder, "val", 5, 0.3)
    done = checkpoint.resume(model)
    callbacks = [_Metric(values, **metric), checkpoint]
    if not checkpoint.finished:
        model.fit(_X, _Y, 16, _EPOCHS, 0, callbacks, shuffle=False, initial_epoch=done)
    checkpoint.restore_best(model)
    logs = [{name: value for name, value in each.items() if name != "seconds"} for each in checkpoint.history]
    return model.get_weights()[0].item(), checkpoint.best_epoch, checkpoint.rate, logs


# Best early; and again after the learning rate has fallen. Of equal values the first counts.
_VALUES = {"early": [5, 6, 4, 4, 4, 4, 4, 9, 9, 9, 9, 9], "again": [3, 2, 2, 4, 1, 1, 4, 1, 5, 1, 1, 1]}


@pytest.mark.parametrize("kind", _VALUES)
def test_killed_behind_epochs(kind, tmp_path):
    values = _VALUES[kind]
    whole = _fit(tmp_path / "whole", values)
    assert whole[2] < 0.09 and len(whole[3]) == {"early": 7, "again": _EPOCHS}[kind]
    for epoch in range(1, len(whole[3]), 3):
        with pytest.raises(KeyboardInterrupt):
            _fit(tmp_path / "killed", values, kill=epoch)
    assert _fit(tmp_path / "killed", values) == whole
    assert _fit(tmp_path / "killed", values) == whole  # behind the last one: nothing is trained


def test_what_another_callback_has_stopped_stays_stopped(tmp_path):
    stopped = _fit(tmp_path, _VALUES["again"], stop=3)
    assert len(stopped[3]) == 4 and _fit(tmp_path, _VALUES["again"]) == stopped


def test_a_part_of_a_checkpoint_is_none(tmp_path):
    whole = _fit(tmp_path, _VALUES["again"], stop=3)
    kept = max(tmp_path.iterdir())  # and the one before
    part = tmp_path / "epoch-00099.part"
    shutil.copytree(kept, part)  # killed before it was renamed
    (part / "state.json").write_text("{")
    assert _fit(tmp_path, _VALUES["again"]) == whole
    state = json.loads((kept / "state.json").read_text())
    (kept / "state.json").write_text(json.dumps({name: value for name, value in state.items() if name != "rate"}))
    write_sums(kept / SUMS, {path.name: path for path in kept.iterdir() if path.name != SUMS})  # of another release
    with pytest.raises(RunError, match="epoch-00004: the checkpoint is damaged .'rate'"):
        _fit(tmp_path, _VALUES["again"])
