"""A changed catalogue becomes the next version: without training, encoding only what is new, complete or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_cli

import mmtfrs
from mmtfrs._keras import tf
from mmtfrs.errors import ExportError
from mmtfrs.exporting.export import export
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.versions import new_version, prune, versions


@pytest.fixture(scope="module")
def changed(small, demo_features, demo, tmp_path_factory):
    """`(folder, refreshed, catalog, store)`: item-0000 and item-0001 gone, item-0002 with another text, two new items."""
    model, _, catalog = small
    folder = tmp_path_factory.mktemp("refresh") / "small"
    export(model, folder)
    store = tmp_path_factory.mktemp("refresh_store")
    mmtfrs.extract(catalog, model.config, store=store, progress=False)
    rows = catalog.table.to_pylist()[2:]
    rows[0]["text"] = "an entirely different text about a lighthouse"
    twin = {**rows[5], "item_id": "twin"}
    rows += [twin, {"item_id": "bare", "text": "", "image": "", "audio": ""}]
    columns = {name: [row[name] for row in rows] for name in ("item_id", "text", "image", "audio")}
    columns["category"] = ["old"] * (len(rows) - 2) + ["new"] * 2
    fresh = mmtfrs.Catalog.from_dict(columns, demo)
    done = refresh(folder, fresh, store, model.config.replace(data={"attributes": ("category",)}), progress=False)
    return folder, done, fresh, store


def _ask(folder, signature="recommend_user", **inputs):
    return LoadedModel(folder).ask(signature, inputs)


def _strings(*values):
    return np.array([value.encode() for value in values], object)


def test_what_it_says_it_did(changed):
    folder, done, fresh, _ = changed
    assert (done.added, done.removed, done.kept) == (2, 2, len(fresh) - 2)
    assert done.encoded == 1  # the changed text; the twin's media were in the store
    assert done.path == folder / "2" and versions(folder) == [1, 2]


def test_embeddings_stay_what_they_were_and_follow_what_changed(changed, small):
    folder, _, fresh, _ = changed
    model, _, catalog = small
    ids = list(fresh.ids)
    after = mmtfrs.load_run(folder / "2" / "assets.extra" / "model")
    before, now = model.candidate_embeddings(), after.candidate_embeddings()
    old = catalog.rows_of(ids[1:-2])
    np.testing.assert_allclose(now[1:-2], before[old], atol=1e-5)
    assert np.abs(now[0] - before[2]).max() > 1e-3
    # The twin has the media of its model, but not what training learned about that one's id.
    media = {name: model.device.items[name](tf.constant([8]))[0] for name in model.data.modalities}
    presence = tf.stack([model.device.items[name](tf.constant([8]))[1] for name in model.data.modalities], axis=1)
    np.testing.assert_allclose(now[-2], model._candidate(media, presence)[0][0], atol=1e-5)


def test_new_items_are_answered_and_removed_ones_are_not(changed):
    folder = changed[0]
    answer = _ask(folder, "similar_items", item_id=_strings("twin", "item-0000"), exclude=np.array([[b""], [b""]], object))
    assert b"twin" in answer["item_id"][0] and (answer["item_id"][1] == b"").all()
    users = _strings(*[f"user-{number:04d}" for number in range(3, 203, 10)])
    nothing = np.full((len(users), 1), b"", object)
    found = _ask(folder, user_id=users, history=nothing, exclude=nothing)["item_id"]
    assert not {b"item-0000", b"item-0001"} & set(found.ravel())
    filtered = LoadedModel(folder).ask("recommend_filtered", {
        "user_id": users, "history": nothing, "exclude": nothing, "allow": np.full((len(users), 1), b"category=new", object),
        "boost_attribute": nothing, "boost": np.zeros((len(users), 1), np.float32), "diversity": np.zeros(len(users), np.float32),
        **{name: _strings(*[""] * len(users)) for name in ("text", "image", "audio")},
    })["item_id"]  # fmt: skip
    assert (set(filtered.ravel()) - {b""}) == {b"twin", b"bare"} and (filtered[:, :2] != b"").all()


def test_histories_with_removed_items_are_histories_without_them(changed):
    folder, _, _, _ = changed
    with_gone = _ask(folder, user_id=_strings("x"), history=np.array([[b"item-0000", b"item-0009"]], object),
                     exclude=np.array([[b""]], object))  # fmt: skip
    without = _ask(folder, user_id=_strings("x"), history=np.array([[b"", b"item-0009"]], object),
                   exclude=np.array([[b""]], object))  # fmt: skip
    np.testing.assert_array_equal(with_gone["item_id"], without["item_id"])


def test_refreshing_a_refreshed_version_keeps_what_ids_learned(changed, small, demo):
    folder, _, _, store = changed
    model, _, catalog = small
    done = refresh(folder, catalog, store, model.config, progress=False)
    assert (done.added, done.removed) == (2, 2)
    again = mmtfrs.load_run(done.path / "assets.extra" / "model").candidate_embeddings()
    # Items that were away come back as new ones: their ids are forgotten; all others are what they were.
    np.testing.assert_allclose(again[2:], model.candidate_embeddings()[2:], atol=1e-5)


def test_a_version_without_its_model(changed, tmp_path):
    folder, _, fresh, store = changed
    import shutil

    shutil.copytree(folder / "1", tmp_path / "m" / "1")
    shutil.rmtree(tmp_path / "m" / "1" / "assets.extra" / "model")
    with pytest.raises(ExportError, match="does not carry its model. Export it again"):
        refresh(tmp_path / "m", fresh, store)
    with pytest.raises(ExportError, match="holds no version"):
        refresh(tmp_path / "nothing", fresh, store)


def test_pruning_keeps_the_newest(tmp_path):
    for _ in range(4):
        with new_version(tmp_path / "m") as part:
            (part / "x").write_text("x")
    assert prune(tmp_path / "m", 0) == [] and prune(tmp_path / "m", 2) == [1, 2]
    assert versions(tmp_path / "m") == [3, 4] and sorted(path.name for path in (tmp_path / "m").iterdir()) == ["3", "4"]


def test_a_full_disk_leaves_the_versions_as_they_were(tmp_path, monkeypatch):
    with new_version(tmp_path / "m") as part:
        (part / "x").write_text("x")
    with pytest.raises(ExportError, match="No space left"), new_version(tmp_path / "m") as part:
        (part / "x").write_text("half")
        raise OSError(28, "No space left on device")
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


@pytest.mark.slow
def test_killed_at_any_moment_no_half_version_is_there(changed, demo, tmp_path):
    folder, _, fresh, store = changed
    rows = [json.dumps({**row, "image": "", "audio": ""}) for row in fresh.table.to_pylist()[:50]]
    (tmp_path / "items.jsonl").write_text("\n".join(rows))
    before = versions(folder)
    for seconds in (4.0, 6.0, 7.0, 8.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "mmtfrs.cli", "refresh", folder, "--items", tmp_path / "items.jsonl", "--store", store],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for version in versions(folder):
            assert LoadedModel(folder / str(version)).ask("similar_items", {
                "item_id": _strings("item-0005"), "exclude": np.array([[b""]], object)})["item_id"].shape == (1, 100 if version in before else 50)  # fmt: skip
    result = run_cli("refresh", folder, "--items", tmp_path / "items.jsonl", "--store", store, "--keep", "1", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["items"] == 50 and versions(folder) == [document["version"]]
