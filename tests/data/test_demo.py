"""The demo catalog holds what it promises."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from mmtfrs import Catalog, Events, Users
from mmtfrs.data.demo import write_demo
from mmtfrs.errors import DataError


def test_counts_and_absence(demo):
    catalog = Catalog.read(demo / "items.csv")
    events = Events.read(demo / "events.csv", catalog=catalog)
    assert len(catalog) == 600 and len(events) == 60_000 and not events.problems
    for modality in ("image", "text", "audio"):
        assert 0.80 < catalog.count(modality) / 600 < 0.90
    suffixes = {path.suffix for path in (*demo.glob("image/*"), *demo.glob("audio/*"))}
    assert suffixes == {".png", ".jpg", ".wav", ".flac"}
    assert len(Users.read(demo / "users.csv")) > 500


def test_tastes_are_planted(demo):
    truth = json.loads((demo / "truth.json").read_text())
    events = Events.read(demo / "events.csv")
    for name in ("image", "text", "audio"):
        tastes, factors = truth["tastes"][name], truth["factors"][name]
        pairs = zip(events.user_ids, events.item_ids, strict=True)
        liked = np.mean([factors[item] in tastes[user] for user, item in pairs])
        assert liked > 0.6, (name, liked)  # 1/3 without tastes


def test_late_items_are_unseen_in_training(demo):
    late = json.loads((demo / "truth.json").read_text())["late"]
    split = Events.read(demo / "events.csv").split("time")
    seen = set(split.train.item_ids)
    assert len(set(late) - seen) >= 30
    assert set(late) & set(split.test.item_ids)
    newcomers = set(split.test.user_ids) - set(split.test.known.user_ids)
    assert len(newcomers) >= 50


def test_nobody_takes_an_item_twice(demo):
    events = Events.read(demo / "events.csv")
    assert len({*zip(events.user_ids, events.item_ids, strict=True)}) == len(events)


@pytest.mark.slow
def test_same_seed_same_bytes(demo, tmp_path):
    write_demo(tmp_path / "again")
    for name in ("items.csv", "events.csv", "users.csv", "image/item-0000.png", "audio/item-0003.flac"):
        if (demo / name).exists():
            first, second = (hashlib.sha256((folder / name).read_bytes()).digest() for folder in (demo, tmp_path / "again"))
            assert first == second, name


def test_refuses_a_folder_in_use(demo):
    with pytest.raises(DataError, match=r"already holds an items\.csv"):
        write_demo(demo)
