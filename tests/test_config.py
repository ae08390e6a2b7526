"""Settings: unknown ones fail loudly, all of them survive a file."""

from __future__ import annotations

import pytest

from mmtfrs import Config, Error
from mmtfrs.errors import ConfigError, first_line


def test_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown setting `model.fusoin`. Did you mean `fusion`\?"):
        Config(model={"fusoin": "concat"})
    with pytest.raises(Error, match="unknown setting `modle`. Did you mean `model`"):
        Config(modle={})


def test_every_problem_is_named_with_what_was_received():
    with pytest.raises(ConfigError) as caught:
        Config(model={"embedding_dim": 0, "dropout": 1.5}, training={"epochs": "many"})
    text = str(caught.value)
    assert "`model.embedding_dim`" in text and "`model.dropout`" in text and "Received: 'many'" in text


@pytest.mark.parametrize("name", ["recal@20", "recall", "recall@x", "recall@0"])
def test_monitor_must_be_a_metric(name):
    with pytest.raises(ConfigError, match="METRIC@K"):
        Config(evaluation={"monitor": name})


def test_round_trip(tmp_path):
    config = Config(seed=7, model={"fusion": "attention", "modalities": ["text"]}, data={"columns": {"items": {"text": "t"}}})
    config.write(tmp_path / "c.yaml")
    assert Config.read(tmp_path / "c.yaml") == config
    assert sorted(Config().differences(config)) == [
        "data.columns.items: {} -> {'text': 't'}",
        "model.fusion: concat -> attention",
        "model.modalities: None -> ['text']",
        "seed: 42 -> 7",
    ]


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 1


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "must hold `key: value` pairs"), ("model: 3", "`model`")]
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Config.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.read(tmp_path / "missing.yaml")


def test_empty_file_is_all_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    assert Config.read(tmp_path / "c.yaml") == Config()


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError(""), "ValueError"),
        (ValueError("\n one\ntwo"), "one"),
        (OSError("x" * 500), "x" * 300),
        (KeyError(), "KeyError"),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
