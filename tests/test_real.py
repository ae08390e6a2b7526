"""The whole path on the real catalogue of pictures, texts and sounds, by the commands, with the real YAMNet."""

from __future__ import annotations

import json

import pytest
from conftest import run_cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(real, tmp_path_factory):
    """Takes forty seconds: real YAMNet over 360 sounds, and two trainings at their full size."""
    digits, folder = real / "digits", tmp_path_factory.mktemp("digits")
    encoders = [
        "--image-encoder",
        "offline",
        "--text-encoder",
        "offline",
        "--audio-encoder",
        real / "yamnet" / "yamnet.h5",
    ]
    (folder / "c.yaml").write_text("training: {patience: 5}\n")  # half of the default: what is asked here is reached by then
    data = ["--items", digits / "items.csv", "--events", digits / "events.csv", "--config", folder / "c.yaml"]
    trained = run_cli("train", *data, "--out", folder / "run", *encoders)
    assert trained.returncode == 0, trained.stderr
    evaluated = run_cli("evaluate", folder / "run", "--baselines", "ease,no_media,item_knn", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    exported = run_cli("export", folder / "run", folder / "saved_models" / "digits")
    assert exported.returncode == 0, exported.stderr
    return folder, trained.stderr, json.loads(evaluated.stdout)["results"]


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
    among = {name: metrics["new_items_among_themselves"]["recall@5"] for name, metrics in results.items()}
    chance = 5 / results["model"]["new_items_among_themselves"]["items"]
    assert among["model"] > 3 * chance
    assert among["no_media"] < 2 * chance


def test_recommendations_follow_what_is_shown(run, real):
    """A spoken or drawn digit asks for items of that digit (the id of an item tells its digit and voice)."""
    model = run[0] / "saved_models" / "digits"
    by_text = run_cli("recommend", model, "--history", "eight-george-0,eight-jackson-1", "-k", 10, "--json")
    items = [entry["item_id"] for entry in json.loads(by_text.stdout)["recommendations"]]
    assert sum(item.startswith("eight") or "george" in item or "jackson" in item for item in items) >= 8, items
    sound = real / "digits" / "audio" / "seven-theo-1.mp3"
    if not sound.exists():
        sound = next((real / "digits" / "audio").glob("*.mp3"))
    result = run_cli("recommend", model, "--audio", sound, "-k", 3, "--json")
    assert len(json.loads(result.stdout)["recommendations"]) == 3
