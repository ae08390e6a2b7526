"""The whole path on the real catalog of images, texts and audio, by the commands, with the real YAMNet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from asked import ask_default, recall_by_user_alone, texts
from conftest import run_cli

from mmtfrs import Catalog
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.request import image_bytes, wav_bytes
from mmtfrs.models.run_folder import load_part

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(real, tmp_path_factory):
    """Takes twenty seconds: real YAMNet over 360 recordings, and two trainings at their full size."""
    digits, folder = real / "digits", tmp_path_factory.mktemp("digits")
    encoders = ["--image-encoder", "offline", "--text-encoder", "offline", "--audio-encoder", real / "yamnet" / "yamnet.h5"]
    (folder / "c.yaml").write_text("training: {epochs: 12, refit: false}\n")  # what is asked here is reached by then
    data = ["--items", digits / "items.csv", "--events", digits / "events.csv", "--config", folder / "c.yaml"]
    trained = run_cli("train", *data, "--out", folder / "run", *encoders)
    assert trained.returncode == 0, trained.stderr
    evaluated = run_cli("evaluate", folder / "run", "--baselines", "ease,no_media,item_knn", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    exported = run_cli("export", folder / "run", folder / "saved_models" / "digits")
    assert exported.returncode == 0, exported.stderr
    return folder, trained.stderr, json.loads(evaluated.stdout)["results"]


@pytest.fixture(scope="module")
def exported(run):
    return LoadedModel(run[0] / "saved_models" / "digits")


def test_broken_files_are_set_aside(run, real):
    broken = json.loads((real / "digits" / "truth.json").read_text())["broken"]
    for path in (*broken["image"], *broken["audio"]):
        assert path in run[1]
    assert "5 media were set aside" in run[1]


def test_check_names_the_broken_files(real):
    digits = real / "digits"
    result = run_cli("check", "--items", digits / "items.csv", "--events", digits / "events.csv", "--json")
    document = json.loads(result.stdout)
    assert (document["errors"], document["warnings"], document["items"], document["events"]) == (0, 5, 360, 24748)


def test_quality(run):
    results = run[2]
    recall = {name: metrics["recall@20"] for name, metrics in results.items()}
    assert recall["model"] > 4 * recall["popularity"]
    others = ("ease", "no_media", "item_knn")  # histories, histories and ids, media
    for metric in ("recall@20", "ndcg@20"):
        assert results["model"][metric] > 1.08 * max(results[name][metric] for name in others), metric
    assert recall["model"] > 0.40
    among = {name: metrics["cold_items_only"]["recall@5"] for name, metrics in results.items()}
    chance = 5 / results["model"]["cold_items_only"]["items"]
    assert among["model"] > 3 * chance
    assert among["no_media"] < 2 * chance


def test_asked_by_the_user_alone_as_evaluated(run, exported):
    """The export's lists for known users have the recall that `evaluate` says, and nothing that a user has."""
    expected = run[2]["model"].get("known_users", run[2]["model"])["recall@20"]
    events = load_part(run[0] / "run", "test")
    assert recall_by_user_alone(exported, events) == pytest.approx(expected, abs=5e-4)


def test_a_medium_alone_finds_its_digit_and_itself(run, real, exported):
    """Asked by an item's own text, image or sound, and by nothing else, through `serving_default`: how many of ten answers
    are of the same digit (the id of an item tells its digit and voice), and whether the item itself is among twenty."""
    catalog = Catalog.read(real / "digits" / "items.csv")
    broken = json.loads((real / "digits" / "truth.json").read_text())["broken"]
    read = {"text": str, "image": image_bytes, "audio": wav_bytes}
    for name, digit, itself in (("text", 0.95, 0.70), ("image", 0.75, 0.90), ("audio", 0.60, 0.85)):
        media = [(item, catalog.medium(row, name)) for row, item in enumerate(catalog.ids)]
        media = [(item, path) for item, path in media if path and not str(path).endswith(tuple(broken.get(name, ())))][::3]
        lists = ask_default(exported, len(media), 40, **{name: texts([read[name](path) for _, path in media])})
        same = [
            [other.split("-")[0] == item.split("-")[0] for other in row[:10]]
            for (item, _), row in zip(media, lists, strict=True)
        ]
        found = [item in row[:20] for (item, _), row in zip(media, lists, strict=True)]
        assert np.mean(same) > digit and np.mean(found) > itself, (name, np.mean(same), np.mean(found))


def test_by_the_command_line(run, real):
    model = run[0] / "saved_models" / "digits"
    sound = next((real / "digits" / "audio").glob("seven-*.mp3"))
    result = run_cli("recommend", model, "--audio", sound, "--user", "nobody", "-k", 10, "--json")
    items = [entry["item_id"] for entry in json.loads(result.stdout)["recommendations"]]
    assert len(items) == 10 and sum(item.startswith("seven") for item in items) >= 5, items
    assert "user nobody is not known to this model" in result.stderr
