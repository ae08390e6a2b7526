"""Trainings that diverge: told by the epoch, never best, never a result; what came before is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import FAST, run_cli
from models.test_two_tower import planted

import mmtfrs
from mmtfrs._keras import keras
from mmtfrs.errors import DataError, ExportError, RunError, TrainingError
from mmtfrs.exporting.export import make_index
from mmtfrs.models.run import load_run, save_run
from mmtfrs.training.checkpoint import Checkpoint
from mmtfrs.training.fit import fit
from mmtfrs.utils.sums import SUMS

CONFIG = mmtfrs.Config(**FAST).replace(model={"history_encoder": "bag"})


def _model(**training):
    catalog, features, events = planted()
    split = events.split("time")
    return mmtfrs.TwoTower(CONFIG.replace(training=training), catalog, features, split.train), split


class _Poison(keras.callbacks.Callback):
    """Sets a weight to NaN in an epoch: before its first step, or behind its last."""

    def __init__(self, epoch, late=False):
        super().__init__()
        self.epoch, self.late = epoch, late

    def on_epoch_begin(self, epoch, logs=None):
        self._set(epoch, False)

    def on_train_batch_end(self, batch, logs=None):
        self._set(self.epoch if self.late and self.done == self.epoch else -1, True)

    def _set(self, epoch, late):
        self.done = getattr(self, "done", epoch) if late else epoch
        if epoch == self.epoch and late == self.late:
            weight = self.model.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.nan))


@pytest.mark.long
@pytest.mark.parametrize(("late", "what"), [(False, "by step 3 the loss is nan"), (True, "the weights .* are not finite")])
def test_the_epoch_before_is_kept(late, what, tmp_path):
    model, split = _model(epochs=4)
    with pytest.raises(TrainingError, match=rf"diverged in epoch 3: {what}.* Epoch 2 is kept. .*learning rate \(0.003 now\)"):
        fit(model, split, tmp_path, more=[_Poison(2, late)])
    assert all(np.isfinite(weight.numpy()).all() for weight in model.weights)
    kept = max((tmp_path / "training").iterdir())
    history = json.loads((kept / "state.json").read_text())["history"]
    assert kept.name == "epoch-00002" and np.isfinite([logs["loss"] for logs in history]).all()
    if late:  # the same call goes on behind it
        assert len(fit(_model(epochs=4)[0], split, tmp_path)) == 4


def test_a_metric_that_is_not_finite_is_never_the_best():
    model, _ = _model()
    model.compile(optimizer="adam")
    checkpoint = Checkpoint(None, "val", 3)
    checkpoint.set_model(model)
    with pytest.raises(TrainingError, match="epoch 1: val is nan"):
        checkpoint.on_epoch_end(0, {"loss": 1.0, "val": np.nan})
    assert checkpoint.best is None and not checkpoint.history


@pytest.mark.slow
def test_the_command_tells_it_in_one_line(tmp_path):
    _, _, events = planted()
    (tmp_path / "items.csv").write_text("item_id\n" + "\n".join(f"i{n}" for n in range(60)))
    rows = zip(events.user_ids, events.item_ids, events.timestamps, strict=True)
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(",".join(map(str, row)) for row in rows))
    (tmp_path / "c.yaml").write_text("training: {epochs: 2, learning_rate: 1.0e+20}\nmodel: {history_encoder: bag}\n")
    files = [part for name in ("items", "events") for part in (f"--{name}", tmp_path / f"{name}.csv")]
    done = run_cli("train", *files, "--config", tmp_path / "c.yaml", "--out", tmp_path / "run")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1 and len(lines) == 1 and "diverged in epoch 1" in lines[0] and "lower learning rate" in lines[0]
    assert not (tmp_path / "run" / "weights.npz").exists() and "(best)" not in done.stderr


def test_weights_and_embeddings_are_checked_between_the_stages(tmp_path):
    model, _ = _model()
    save_run(model, tmp_path / "good")
    weight = model.trainable_variables[0]
    good = weight.numpy()
    weight.assign(np.full(weight.shape, np.inf))
    with pytest.raises(RunError, match="the weights .* are not finite: the training has diverged"):
        save_run(model, tmp_path / "bad")
    with pytest.raises(ExportError, match="60 of 60 items have embeddings that are not finite, the first is i0"):
        make_index(model)
    weight.assign(good)
    with np.load(tmp_path / "good" / "weights.npz") as saved:
        arrays = dict(saved)
    arrays[next(name for name in arrays if arrays[name].ndim)][...] = np.nan
    np.savez(tmp_path / "good" / "weights.npz", **arrays)
    (tmp_path / "good" / SUMS).unlink()
    with pytest.raises(RunError, match="the run is damaged .the weights .* are not finite"):
        load_run(tmp_path / "good")


def test_weights_of_events(tmp_path):
    catalog, features, events = planted()
    nothing = mmtfrs.Events(events.users, events.items, events.timestamps, np.zeros(len(events)))
    model = mmtfrs.TwoTower(CONFIG, catalog, features, nothing)
    with pytest.raises(DataError, match="every training event has the weight 0"):
        model.dataset(nothing)
    for bad in (np.nan, np.inf, 1e38):
        with pytest.raises(DataError, match="`weights` must be finite numbers, 1e\\+15 at most. Received: .* at position 1"):
            mmtfrs.Events(["u", "u"], ["a", "b"], [1, 2], [1.0, bad])
    for text, told in [("1e39", "row 3: `weight` is beyond 1e+15"), ("nan", "row 3: `weight` is not a number")]:
        (tmp_path / "e.csv").write_text(f"user_id,item_id,timestamp,weight\nu,a,1,1\nu,b,2,{text}\n")
        _, problems = mmtfrs.Events.scan(tmp_path / "e.csv")
        assert [told in str(problem) for problem in problems] == [True]
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp,weight\nu,a,1,0\nu,b,2,0\n")
    with pytest.raises(DataError, match="every `weight` is 0"):
        mmtfrs.Events.read(tmp_path / "e.csv")
