"""The commands; what goes wrong is one message and an exit code, and comes before TensorFlow is loaded."""

from __future__ import annotations

import json
import re

import pytest
from conftest import run_cli

from mmtfrs import Config
from mmtfrs.config.schema import FUSIONS

OFFLINE = [part for name in ("image", "text", "audio") for part in (f"--{name}-encoder", "offline")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Twelve items with texts, eight users, a broken image, an event on an unknown item."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "bad.png").write_bytes(b"no image")
    items = "item_id,text,image\n" + "".join(f"i{n},a text about {n},\n" for n in range(11)) + "i11,last,bad.png\n"
    (folder / "items.csv").write_text(items)
    events = [f"u{u},i{(u * 5 + n) % 12},{1_760_000_000 + u + 10 * n}" for u in range(8) for n in range(6)]
    (folder / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join([*events, "u1,zz,1760000001"]) + "\n")
    (folder / "c.yaml").write_text("training: {epochs: 2}\nmodel: {embedding_dim: 8, hidden: [8]}\nevaluation: {ks: [3, 5]}\n")
    return folder


def _data(folder):
    return ["--items", folder / "items.csv", "--events", folder / "events.csv"]


def test_check_prints_every_problem(tiny):
    result = run_cli("check", *_data(tiny), "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["items"], document["events"], document["errors"], document["warnings"]) == (12, 48, 0, 2)
    assert {(tuple(problem["rows"]), problem["severity"]) for problem in document["problems"]} == {
        ((50,), "warning"),
        ((13,), "warning"),
    }


@pytest.mark.parametrize(("name", "row"), [("items.csv", 3), ("items.tsv", 3), ("items.jsonl", 2)])
def test_check_counts_rows_as_an_editor_does(tiny, tmp_path, name, row):
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines = {
        "csv": "item_id,image\na,\nb,bad.png\n",
        "tsv": "item_id\timage\na\t\nb\tbad.png\n",
        "jsonl": '{"item_id": "a"}\n{"item_id": "b", "image": "bad.png"}\n',
    }
    (tmp_path / name).write_text(lines[name.partition(".")[2]])
    found = json.loads(run_cli("check", "--items", tmp_path / name, "--events", tiny / "events.csv", "--json").stdout)
    assert [problem["rows"] for problem in found["problems"] if "bad.png" in str(problem)] == [[row]]


def test_check_fails_on_errors(tiny, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,image\na,\na,\n")
    result = run_cli("check", "--items", tmp_path / "items.csv", "--events", tiny / "events.csv")
    assert result.returncode == 1
    assert "row 3: `item_id` was already used" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_whole_path(tiny, tmp_path):
    result = run_cli(
        "train", *_data(tiny), "--config", tiny / "c.yaml", "--out", tmp_path / "r", *OFFLINE, "--seed", 3, "--json"
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["epochs"] == 2 and document["modalities"] == ["text"] and document["rejects"] == 1
    assert "set aside: items i11: image bad.png" in result.stderr and "row 50: the event is on an item" in result.stderr
    result = run_cli("evaluate", tmp_path / "r", "--baselines", "id_only,image", "--json")
    document = json.loads(result.stdout)
    assert list(document["results"]) == ["model", "popularity", "id_only"]  # no image could be used
    assert json.loads((tmp_path / "r" / "metrics.json").read_text()) == document
    table = run_cli("evaluate", tmp_path / "r", "--baselines", "none")
    assert "this model" in table.stdout and "recall@5" in table.stdout
    result = run_cli("export", tmp_path / "r", tmp_path / "sm" / "tiny", "--json")
    assert json.loads(result.stdout)["version"] == 1, result.stderr
    result = run_cli("index-report", tmp_path / "r", "-k", 5, "--recalls", "0.9", "--json")
    measured = json.loads(result.stdout)["measured"]
    assert [each["index"] for each in measured][:3] == ["matmul + top_k", "exact", "partitions"], result.stderr
    assert (tmp_path / "r" / "index.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "r" / "index.json").exists()
    assert run_cli("index-report", tmp_path / "r", "--recalls", "2").returncode == 2
    result = run_cli("export", tmp_path / "r", tmp_path / "sm" / "tiny", "--index", "partitions", "--recall", 0.9, "--keep", 1)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "sm" / "tiny").iterdir()] == ["2"]
    result = run_cli("recommend", tmp_path / "sm" / "tiny", "--user", "u1", "-k", 4, "--exclude", "i3,i4", "--json")
    found = [entry["item_id"] for entry in json.loads(result.stdout)["recommendations"]]
    assert len(found) == 4 and not {"i3", "i4"} & set(found)
    result = run_cli("recommend", tmp_path / "sm" / "tiny", "--text", "a text about 5", "-k", 12)
    assert len(re.findall(r"^ *\d+ +-?\d\.\d+ +i\d+ ", result.stdout, re.M)) == 12
    result = run_cli("recommend", tmp_path / "sm" / "tiny", "--image", tiny / "bad.png")
    assert result.returncode == 1 and "not an image in a known format" in result.stderr


def test_bare_ids_need_no_encoder(tiny, tmp_path):
    (tmp_path / "items.csv").write_text("item_id\n" + "".join(f"i{n}\n" for n in range(12)))
    result = run_cli(
        "train",
        "--items",
        tmp_path / "items.csv",
        "--events",
        tiny / "events.csv",
        "--out",
        tmp_path / "r",
        "--config",
        tiny / "c.yaml",
        "--split",
        "none",
    )
    assert result.returncode == 0, result.stderr
    assert "trained on 48 events for 2 epochs" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["train", "--items", "none.csv", "--events", "none.csv", "--out", "/tmp/none"],
            1,
            "error: none.csv: there is no such file.",
        ),
        (["evaluate", "/nowhere"], 1, "error: /nowhere: not a run folder"),
        (["export", "/nowhere", "/tmp/x"], 1, "error: /nowhere: not a run folder"),
        (["recommend", "/nowhere"], 1, "error: /nowhere: holds no version of a model"),
        (["demo-data", "/proc/x"], 1, "error: /proc/x: cannot be written"),
        (["evaluate", "/nowhere", "--split", "train"], 2, "must be test or validation"),
        (["train"], 2, "Missing option"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_mistakes(arguments, code, message):
    result = run_cli(*arguments)
    assert result.returncode == code and "Traceback" not in result.stderr, result.stderr
    assert message in result.stderr, result.stderr


def test_debug_shows_the_traceback_and_json_the_error():
    assert "Traceback" in run_cli("--debug", "evaluate", "/nowhere").stderr
    result = run_cli("evaluate", "/nowhere", "--json")
    assert "not a run folder" in json.loads(result.stdout)["error"] and result.returncode == 1


def test_unknown_split_and_config_key(tiny, tmp_path):
    (tmp_path / "c.yaml").write_text("model: {fusoin: concat}\n")
    result = run_cli("check", *_data(tiny), "--config", tmp_path / "c.yaml")
    assert result.returncode == 1 and "unknown setting `model.fusoin`. Did you mean `fusion`?" in result.stderr
    result = run_cli("train", *_data(tiny), "--out", tmp_path / "r", "--split", "tme", *OFFLINE)
    assert result.returncode == 1 and "data.split" in result.stderr


def test_config_says_what_can_be_set(tmp_path):
    rows = json.loads(run_cli("config", "--json").stdout)["settings"]
    flat = Config().model_dump(mode="json")
    named = {row["setting"]: row for row in rows}
    assert len(named) == len(rows) > 70 and named["training.finetune.blocks"]["value"] == 0
    for name, row in named.items():
        value = flat
        for part in name.split("."):
            value = value[part]
        assert row["value"] == row["default"] == value and row["range"], name
    assert named["model.fusion"]["range"] == f"{', '.join(FUSIONS)} or package.module:Name"
    assert named["model.dropout"]["range"] == "number >= 0, < 1"
    (tmp_path / "c.yaml").write_text("model: {fusion: gated, feature_dim: null}\n")
    changed = json.loads(run_cli("config", tmp_path / "c.yaml", "--changed", "--json").stdout)["settings"]
    assert [(row["setting"], row["value"]) for row in changed] == [("model.fusion", "gated"), ("model.feature_dim", None)]
    table = run_cli("config", tmp_path / "c.yaml", "--changed").stdout
    assert "gated" in table and "concat" in table and "none" in table
    schema = json.loads(run_cli("config", "--schema").stdout)
    assert schema["$defs"]["ModelConfig"]["properties"]["fusion"]["anyOf"][0]["enum"] == list(FUSIONS)
    (tmp_path / "c.yaml").write_text("model: {fusion: gatd}\n")
    refused = run_cli("config", tmp_path / "c.yaml")
    assert refused.returncode == 1 and "`model.fusion` must be one of" in refused.stderr
    assert "Received: 'gatd'. Did you mean `gated`?" in refused.stderr
