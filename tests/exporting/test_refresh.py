"""A changed catalog becomes the next version: without training, encoding only what is new, complete or not at all."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import FAST
from processes import die_at

import mmtfrs
from mmtfrs._keras import tf
from mmtfrs.errors import ExportError, WriteError
from mmtfrs.exporting.export import export
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.versions import new_version, prune, versions


@pytest.fixture(scope="module")
def changed(small, demo_store, demo, tmp_path_factory):
    """`(folder, refreshed, catalog, store)`: item-0000 and item-0001 gone, item-0002 with another text, two new items."""
    model, _, catalog = small
    folder = tmp_path_factory.mktemp("refresh") / "small"
    export(model, folder)
    store = tmp_path_factory.mktemp("refresh_store") / "store"
    shutil.copytree(demo_store, store)
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


def _similar(folder, *items):
    nothing = np.full((len(items), 1), b"", object)
    return _ask(
        folder,
        "similar_items",
        item_id=_strings(*items),
        user_id=nothing[:, 0],
        history=nothing,
        exclude=nothing,
        allow=nothing,
        min_score=np.full(len(items), tf.float32.min, np.float32),
    )


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
    np.testing.assert_allclose(now[-2, :-1], np.ravel(model._candidate(media, presence).embedding())[:-1], atol=1e-5)
    assert now[-2, -1] == 0


@pytest.mark.slow
def test_new_items_are_answered_and_removed_ones_are_not(changed):
    folder = changed[0]
    answer = _similar(folder, "twin", "item-0000")
    assert b"twin" in answer["item_id"][0] and (answer["item_id"][1] == b"").all()
    users = _strings(*[f"user-{number:04d}" for number in range(3, 203, 10)])
    nothing = np.full((len(users), 1), b"", object)
    found = _ask(folder, user_id=users, history=nothing, exclude=nothing)["item_id"]
    assert not {b"item-0000", b"item-0001"} & set(found.ravel())
    filtered = LoadedModel(folder).ask(
        "recommend_filtered",
        {
            "user_id": users,
            "history": nothing,
            "exclude": nothing,
            "allow": np.full((len(users), 1), b"category=new", object),
            "boost_attribute": nothing,
            "boost": np.zeros((len(users), 1), np.float32),
            "diversity": np.zeros(len(users), np.float32),
            "min_score": np.full(len(users), tf.float32.min, np.float32),
            "repeats": np.zeros(len(users), bool),
            **{name: _strings(*[""] * len(users)) for name in ("text", "image", "audio")},
        },
    )["item_id"]
    assert (set(filtered.ravel()) - {b""}) == {b"twin", b"bare"} and (filtered[:, :2] != b"").all()


@pytest.mark.slow
def test_histories_with_removed_items_are_histories_without_them(changed):
    folder, _, _, _ = changed
    with_gone = _ask(
        folder,
        user_id=_strings("x"),
        history=np.array([[b"item-0000", b"item-0009"]], object),
        exclude=np.array([[b""]], object),
    )
    without = _ask(
        folder, user_id=_strings("x"), history=np.array([[b"", b"item-0009"]], object), exclude=np.array([[b""]], object)
    )
    np.testing.assert_array_equal(with_gone["item_id"], without["item_id"])


@pytest.mark.long
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
    with pytest.raises(WriteError, match="No space left"), new_version(tmp_path / "m") as part:
        (part / "x").write_text("half")
        raise OSError(28, "No space left on device")
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


@pytest.mark.long
def test_killed_between_any_two_of_its_changes_no_half_version_is_there(tmp_path, jobs):
    """A small shop with texts alone; what is new has to be encoded, and the store is written too."""
    texts = {f"i{n}": f"a text about {n % 7} and {n}" for n in range(40)}
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps({"item_id": i, "text": t}) for i, t in texts.items()))
    config = mmtfrs.Config(encoders={"text": "offline"}, **FAST)
    catalog = mmtfrs.Catalog.read(tmp_path / "items.jsonl")
    features = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    events = mmtfrs.Events([f"u{n % 8}" for n in range(160)], [f"i{n % 40}" for n in range(160)], range(160))
    folder = tmp_path / "m"
    export(mmtfrs.TwoTower(config, catalog, features, events), folder)
    with (tmp_path / "items.jsonl").open("a") as file:
        file.write('\n{"item_id": "new", "text": "something else"}\n')

    def start(number, log):
        command = ["refresh", folder, "--items", tmp_path / "items.jsonl", "--store", tmp_path / "store", "--keep", "1"]
        return jobs("mmtfrs.cli.app", *command, "--json", before=(die_at, number, str(tmp_path), str(tmp_path / log)))

    for number in (3, 12):  # while the store is written; while the version is
        killed = start(number, f"log-{number}")
        assert killed.wait() == -9, killed.stderr
        assert versions(folder) == [1] and LoadedModel(folder).ask("titles", {"item_id": _strings("i5")})
    done = start(0, "log")
    assert done.wait() == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["items"], document["added"], document["version"]) == (41, 1, 2) and versions(folder) == [2]
    found = _similar(folder, "new")["item_id"]
    assert found.shape == (1, 41) and (found != b"").sum() == 41
