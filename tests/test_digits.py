"""The path on real files in the mess of real folders, as they come with these tests: five formats of images, four of audio, some
media absent, five broken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import FAST, OFFLINE, ROOT, run_cli

import mmtfrs
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import Query, results

DIGITS = ROOT / "tests" / "files" / "digits"
BROKEN = {
    "image": {"image/zero-jackson-5.jpg", "image/nine-jackson-1.jpg"},
    "audio": {"audio/five-jackson-0.wav", "audio/eight-george-1.wav", "audio/eight-yweweler-5.wav"},
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    config = mmtfrs.Config(**FAST, encoders=OFFLINE).replace(model={"modalities": ("image", "text", "audio")})
    catalog = mmtfrs.Catalog.read(DIGITS / "items.csv")
    return catalog, mmtfrs.extract(catalog, config, tmp_path_factory.mktemp("store"), progress=False), config


def test_check_names_the_broken_files():
    found = run_cli("check", "--items", DIGITS / "items.csv", "--events", DIGITS / "events.csv", "--json")
    document = json.loads(found.stdout)
    assert found.returncode == 0 and (document["items"], document["events"], document["warnings"]) == (63, 872, 5)
    for path in (*BROKEN["image"], *BROKEN["audio"]):
        assert path in found.stdout


def test_what_cannot_be_decoded_is_absent_and_the_rest_is_there(extracted):
    catalog, features, _ = extracted
    for name in ("image", "text", "audio"):
        given = [catalog.medium(row, name) for row in range(len(catalog))]
        usable = [bool(path) and not str(path).endswith(tuple(BROKEN.get(name, ["never"]))) for path in given]
        assert features.items[name].present.tolist() == usable and 50 < sum(usable) < 63


def test_images_of_one_digit_are_alike(extracted):
    """The nearest image of another item shows the same digit far more often than chance, .1; ids tell digit and voice."""
    catalog, features, _ = extracted
    rows = np.flatnonzero(features.items["image"].present)
    values = np.asarray(features.items["image"][rows], np.float64)
    values -= values.mean(axis=0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    alike = values @ values.T
    np.fill_diagonal(alike, -2)
    digits = np.array([item.split("-")[0] for item in catalog.ids])[rows]
    assert (digits[alike.argmax(axis=1)] == digits).mean() > 0.4


def test_trained_exported_and_asked_with_raw_files(extracted, tmp_path):
    catalog, features, config = extracted
    events = mmtfrs.Events.read(DIGITS / "events.csv", catalog=catalog)
    model = mmtfrs.TwoTower(config, catalog, features, events)
    model.compile(optimizer="adam")
    losses = model.fit(model.dataset(events), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    loaded = LoadedModel(mmtfrs.export(model, tmp_path / "m").parent)
    query = Query(
        text="the number eight", image=DIGITS / "image" / "eight-nicolas-0.jpg", audio=DIGITS / "audio" / "eight-nicolas-0.wav"
    )
    assert len(results(loaded.ask(*query.request()))) == len(catalog)
