"""Features that people bring themselves."""

from __future__ import annotations

import numpy as np
import pytest

import mmtfrs
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.errors import DataError
from mmtfrs.features.precomputed import load_own

CATALOG = mmtfrs.Catalog.from_dict({"item_id": ["a", "b", "c"]})


def _file(tmp_path, values, ids=None):
    np.save(tmp_path / "clip.npy", values)
    if ids is not None:
        (tmp_path / "clip.ids.txt").write_text("\n".join(ids) + "\n")
    return tmp_path / "clip.npy"


def test_in_the_order_of_the_catalog(tmp_path):
    values = np.arange(6, dtype=np.float64).reshape(3, 2)
    rows = load_own("clip", _file(tmp_path, values), CATALOG)
    assert rows[:].tolist() == values.tolist() and rows[:].dtype == np.float32 and rows.present.all()


def test_in_the_order_of_its_ids(tmp_path):
    rows = load_own("clip", _file(tmp_path, np.array([[1.0], [2.0], [9.0]], np.float32), ["c", "a", "unknown"]), CATALOG)
    assert rows[:].tolist() == [[2.0], [0.0], [1.0]] and rows.present.tolist() == [True, False, True]
    first = load_own("clip", _file(tmp_path, np.array([[3.0], [4.0]], np.float32), ["unknown", "a"]), CATALOG)
    assert first[:].tolist() == [[4.0], [0.0], [0.0]] and first.present.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("values", "ids", "message"),
    [
        (np.zeros((2, 4), np.float32), None, r"one row of clip per item. Received: 2 rows, 3 items"),
        (np.zeros((3, 4), np.int64), None, r"floating numbers. Received: int64 \[3, 4\]"),
        (np.zeros(3, np.float32), None, r"Received: float32 \[3\]"),
        (np.array([["x"]] * 3), None, "Received: <U1"),
        (
            np.array([[0.0], [np.nan], [1.0]]),
            None,
            "finite numbers, 1e\\+15 at most. Received: others in 1 rows, the first is row 1",
        ),
        (np.array([[0.0], [0.0], [1e300]]), None, "Received: others in 1 rows, the first is row 2"),
        (np.zeros((3, 1)), ["a", "b"], "must list each row's item once. Received: 2 ids, 2 different, 3 rows"),
        (np.zeros((2, 1)), ["x", "y"], "no id is in the catalog"),
    ],
)
def test_bad_files(tmp_path, values, ids, message):
    with pytest.raises(DataError, match=message):
        load_own("clip", _file(tmp_path, values, ids), CATALOG)


def test_no_npy(tmp_path):
    (tmp_path / "clip.npy").write_text("not an array")
    for name in ("clip.npy", "missing.npy"):
        with pytest.raises(DataError, match="cannot be read as .npy"):
            load_own("clip", tmp_path / name, CATALOG)


def test_reach_the_model_and_its_dense_signatures(tmp_path):
    path = _file(tmp_path, np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    config = mmtfrs.Config(data={"features": {"clip": str(path)}}, model={"feature_dim": None})
    features = mmtfrs.extract(CATALOG, config, store=tmp_path / "store", progress=False)
    events = mmtfrs.Events(["u", "u", "v"], ["a", "b", "c"], [1, 2, 3])
    model = mmtfrs.TwoTower(config, CATALOG, features, events)
    assert model.data.modalities == ("clip",)
    from mmtfrs.exporting.export import make_index
    from mmtfrs.exporting.signatures import ServingModule

    signature = ServingModule(model, {}, make_index(model)).signatures()["embed_candidate_dense"]
    assert set(signature.structured_input_signature[1]) == {"clip", "presence"}


def test_a_medium_of_which_an_encoder_makes_no_numbers_is_set_aside(tmp_path, monkeypatch):
    """The rows of the others are theirs, also behind it."""
    encode = TextEncoder.encode_batch

    def broken(self, media):
        features = encode(self, media).copy()
        features[[b"two" in medium.item() for medium in media]] = np.nan
        return features

    catalog = mmtfrs.Catalog.from_dict({"item_id": ["a", "b", "c", "d"], "text": ["one", "two", "three", "two"]})
    config = mmtfrs.Config(encoders={"text": "offline"})
    whole = mmtfrs.extract(catalog, config, store=tmp_path / "whole", progress=False).items["text"]
    monkeypatch.setattr(TextEncoder, "encode_batch", broken)
    found = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    assert found.items["text"].present.tolist() == [True, False, True, False] and found.encoded == 2
    np.testing.assert_array_equal(found.items["text"][:][[0, 2]], whole[:][[0, 2]])
    assert [(each.id, "are not finite" in each.reason) for each in found.rejects] == [("b", True), ("d", True)]
