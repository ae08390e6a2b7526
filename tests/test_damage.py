"""A flipped bit in any file of a run, a checkpoint or an export is told before anything is made of it."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
from conftest import FAST, run_cli
from models.test_two_tower import planted

import mmtfrs
from mmtfrs._keras import keras, tf
from mmtfrs.errors import Error, ExportError, RunError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.versions import reading
from mmtfrs.models.run import load_weights, save_run
from mmtfrs.models.run_folder import WEIGHTS, load_split, read_run
from mmtfrs.training.baselines import evaluate_run, train_baseline
from mmtfrs.training.checkpoint import Checkpoint
from mmtfrs.utils.sums import SUMS
from serving.served_model import ServedModel

_draw = random.Random(7)


def _flip(path):
    """One bit of a file; gives it back as it was."""
    before = path.read_bytes()
    damaged = bytearray(before)
    place = _draw.randrange(8 * len(damaged))
    damaged[place // 8] ^= 1 << place % 8
    path.write_bytes(damaged)
    return lambda: path.write_bytes(before)


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small model, not trained, its split, and its run folder."""
    catalog, features, events = planted()
    split = events.split("random", 0.2, 0.2, 1)
    config = mmtfrs.Config(**FAST).replace(training={"epochs": 1})
    model = mmtfrs.TwoTower(config, catalog, features, split.train)
    folder = tmp_path_factory.mktemp("made") / "run"
    save_run(model, folder, split)
    return model, split, folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made[2], tmp_path / "run")


def test_a_run_says_which_file_is_not_what_was_written(run):
    read_run(run)
    for path in _files(run):
        for _ in range(3):
            restore = _flip(path)
            name = path.relative_to(run).as_posix()
            told_of = rf"\({name} |not a run folder|the run is of format" if name != SUMS else "the run is damaged"
            with pytest.raises(RunError, match=told_of) as told:
                read_run(run)
            assert "\n" not in str(told.value)
            restore()
        path.rename(path.with_suffix(".away"))
        if name != SUMS:  # without, it is a run of a release that wrote none
            with pytest.raises(
                RunError, match=f"{name} cannot be read: No such file|not a run folder|the training has not ended"
            ):
                read_run(run)
        path.with_suffix(".away").rename(path)
    read_run(run)


def test_a_run_without_sums_never_ends_in_a_traceback(made, run):
    """As an earlier release wrote it: what its formats tell is told."""
    (run / SUMS).unlink()
    read_run(run), load_split(run)
    told = 0
    for path in _files(run):
        for damage in (_flip, lambda path: _cut(path, 0.5), lambda path: _cut(path, 0)):
            restore = damage(path)
            try:
                read_run(run), load_split(run)
                load_weights(made[0], run / WEIGHTS)
            except Error as error:
                told += 1
                assert str(run) in str(error)
            restore()
    assert told > len(_files(run))
    load_weights(made[0], run / WEIGHTS)


def _cut(path, share):
    before = path.read_bytes()
    path.write_bytes(before[: int(len(before) * share)])
    return lambda: path.write_bytes(before)


def test_settings_that_were_edited_are_told_and_can_be_meant(run):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("  recall: 0.95", "  recall: 0.9"))
    with pytest.raises(
        RunError, match=r"config.yaml is not what was written.*edited: if that is meant, remove its entry from sums"
    ):
        read_run(run)
    sums = json.loads((run / SUMS).read_text())
    del sums["config.yaml"]
    (run / SUMS).write_text(json.dumps(sums))
    assert read_run(run)[0].export.recall == 0.9


def test_an_export_says_which_file_is_not_what_was_written(tiny, tmp_path):
    version = shutil.copytree(tiny, tmp_path / "m") / "1"
    with reading(tmp_path / "m") as path:
        assert path == version
    for path in _files(version):
        restore = _flip(path)
        name = path.relative_to(version).as_posix()
        with pytest.raises(ExportError, match=rf"m/1: the export is damaged \(({name}|sums.json|\S+) "), reading(version):
            pass
        restore()
    catalog = mmtfrs.Catalog.from_dict({"item_id": ["i0", "new"], "text": ["one", "two"]})
    for name in ("variables/variables.data-00000-of-00001", "saved_model.pb", "assets.extra/model/weights.npz"):
        restore = _flip(version / name)
        with pytest.raises(ExportError, match=f"damaged .{name} is not what was written"):
            refresh(tmp_path / "m", catalog, tmp_path / "store", progress=False)
        with pytest.raises(ExportError, match=f"damaged .{name} is not what was written"):
            LoadedModel(tmp_path / "m")
        done = run_cli("recommend", tmp_path / "m", "--user", "u1")
        assert done.returncode == 1 and f"the export is damaged ({name} is not what was written)" in done.stderr
        server = ServedModel("m", tmp_path / "m")
        assert not server.refresh() and "the export is damaged" in server.statuses[1].status.error_message
        restore()
    assert not (tmp_path / "store").exists()
    restore = _flip(version / "assets.extra" / "mmtfrs.json")  # which is read before TensorFlow is loaded
    assert "mmtfrs.json is not what was written" in run_cli("recommend", tmp_path / "m", "--user", "u1").stderr
    restore()
    (version / "assets.extra" / SUMS).unlink()  # as an earlier release wrote it
    assert LoadedModel(tmp_path / "m").path == version


def test_a_server_keeps_its_version_where_the_next_is_damaged(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    server = ServedModel("m", folder)
    assert server.refresh()
    shutil.copytree(folder / "1", tmp_path / "2")
    _flip(tmp_path / "2" / "variables" / "variables.data-00000-of-00001")
    (tmp_path / "2").rename(folder / "2")
    assert not server.refresh() and server.current.version == 1
    assert "is not what was written" in server.statuses[2].status.error_message


def _begun(folder):
    """A small model and its checkpoints; which epoch it goes on after."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Dense(1, input_shape=(3,))])
    model.compile(optimizer="adam", loss="mse")
    checkpoint = Checkpoint(folder, None, 9)
    return model, checkpoint, checkpoint.resume(model)


def _fitted(folder, epochs):
    model, checkpoint, done = _begun(folder)
    data = tf.data.Dataset.from_tensor_slices((np.eye(3, dtype=np.float32), np.ones(3, np.float32))).batch(3)
    model.fit(data, epochs=epochs, initial_epoch=done, callbacks=[checkpoint], verbose=0)
    return [weight.tolist() for weight in model.get_weights()]


def test_the_newest_good_checkpoint_is_used(tmp_path, caplog):
    whole = _fitted(tmp_path / "c", 3)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["epoch-00002", "epoch-00003"]
    for name in ("arrays.npz", "best.npz", "state.json", SUMS):
        folder = shutil.copytree(tmp_path / "c", tmp_path / name)
        _flip(folder / "epoch-00003" / name)
        assert _begun(folder)[2] == 2
        assert f"{folder}/epoch-00003: the checkpoint is damaged" in caplog.text
        _flip(folder / "epoch-00002" / name)
        assert _begun(folder)[2] == 0  # none is left: it begins anew
    _flip(tmp_path / "c" / "epoch-00003" / "arrays.npz")
    assert _fitted(tmp_path / "c", 3) == whole
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["epoch-00002", "epoch-00003"]


@pytest.mark.long
def test_what_an_evaluation_has_kept_is_measured_again_where_it_is_damaged(made, run, caplog):
    found = evaluate_run(run, "test", ["id_only"])
    kept, weights = run / "evaluation" / "test.json", run / "baselines" / "id_only.npz"
    text = kept.read_text()
    for damaged in (text.replace("0.", "1.", 1), text[:-20], ""):
        kept.write_text(damaged)
        assert evaluate_run(run, "test", ["id_only"])["model"] == found["model"]
    trained = train_baseline("id_only", made[0], made[1], run / "baselines").get_weights()
    body = bytearray(weights.read_bytes())
    body[len(body) // 2] ^= 1
    weights.write_bytes(body)
    again = train_baseline("id_only", made[0], made[1], run / "baselines").get_weights()
    assert "is damaged" in caplog.text and "It is trained again." in caplog.text
    assert len(again) == len(trained) and np.load(weights).files


def test_sums_are_those_of_what_is_there(made, tmp_path):
    """By another implementation."""
    import zlib

    save_run(made[0], tmp_path / "r", made[1])
    sums = json.loads((tmp_path / "r" / SUMS).read_text())
    assert {*sums} == {path.relative_to(tmp_path / "r").as_posix() for path in _files(tmp_path / "r")} - {SUMS}
    for name, (size, crc) in sums.items():
        data = (tmp_path / "r" / name).read_bytes()
        assert (len(data), zlib.crc32(data)) == (size, crc), name
