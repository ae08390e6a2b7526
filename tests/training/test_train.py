"""Training runs: best epoch, resume after kills, refusals, baselines."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib

import numpy as np
import pytest
from asked import recall_by_user_alone
from conftest import FAST

import mmtfrs
from mmtfrs.errors import ConfigError, RunError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.training import memory
from mmtfrs.training.baselines import evaluate_run, train_baseline
from mmtfrs.training.fit import fit_to_best, inner_split, returning_users
from mmtfrs.training.train import train


@pytest.fixture
def inputs(demo_events, demo_features):
    catalog, _, features, config = demo_features
    events = mmtfrs.Events.read(demo_events, catalog=catalog)
    # One modality: what is tested here does not depend on how many there are.
    return config.replace(**FAST).replace(model={"modalities": ("text",)}), catalog, features, events


@pytest.mark.slow
def test_best_epoch_is_kept_and_a_finished_run_is_not_trained_again(inputs, tmp_path):
    config, catalog, features, events = inputs
    config = config.replace(training={"epochs": 30, "patience": 2, "learning_rate": 0.05})
    split = events.split("time")
    model, history = train(config, catalog, features, split, tmp_path / "r", progress=False)
    values = [logs["val_recall@20"] for logs in history]
    assert len(history) < 30 and len(history) - 1 - int(np.argmax(values)) == 2
    again = mmtfrs.evaluate(model, split.validation)["model"]["recall@20"]
    assert again >= max(values) - 1e-6  # the media's weight is tempered after the last epoch, if that is better
    assert not (tmp_path / "r" / "training").exists() and list((tmp_path / "r" / "logs").rglob("events.out*"))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
    same, same_history = train(config, catalog, features, split, tmp_path / "r", progress=False)
    assert same_history == history
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}  # nothing was trained
    np.testing.assert_array_equal(same.candidate_embeddings(), model.candidate_embeddings())


def test_memory_is_told_before_a_training_that_needs_more(inputs, tmp_path, monkeypatch, caplog):
    config, catalog, features, events = inputs
    model = mmtfrs.TwoTower(config, catalog, features, events)
    memory.tell_memory(model)
    assert not caplog.records and 1 << 30 < memory.needed(model) < 4 << 30 and memory.available() > 1 << 28
    monkeypatch.setattr(memory, "available", lambda: 1 << 29)
    monkeypatch.setattr(memory, "_held", lambda: 0)
    train(config.replace(training={"epochs": 1}), catalog, features, events.split("none"), tmp_path / "r", progress=False)
    assert "GiB more memory, and 0.5 GiB are free" in caplog.text
    wide = memory.needed(mmtfrs.TwoTower(config.replace(model={"embedding_dim": 512}), catalog, features, events))
    assert wide > memory.needed(model) + 6 * 4 * 480 * len(catalog)  # six copies of a wider table


def test_without_validation_every_epoch_counts(inputs, tmp_path):
    config, catalog, features, events = inputs
    _, history = train(config, catalog, features, events.split("none"), tmp_path / "r", progress=False)
    assert len(history) == 3 and "val_recall@20" not in history[-1]
    with pytest.raises(RunError, match=r"the run's split \(`none`\) has no test events"):
        evaluate_run(tmp_path / "r")


@pytest.mark.slow
def test_refusals(inputs, tmp_path):
    config, catalog, features, events = inputs
    split = events.split("random")
    config = config.replace(training={"epochs": 1})
    train(config, catalog, features, split, tmp_path / "r", progress=False)
    with pytest.raises(RunError, match="(?s)holds a run of other settings.*model.dropout: 0.2 -> 0.5"):
        train(config.replace(model={"dropout": 0.5}), catalog, features, split, tmp_path / "r", progress=False)
    with pytest.raises(RunError, match="holds a run on other data"):
        train(config, catalog, features, events.split("random", seed=5), tmp_path / "r", progress=False)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="the folder is not empty and holds no run"):
        train(config, catalog, features, split, tmp_path / "x", progress=False)
    model, _ = train(config.replace(seed=1), catalog, features, split, tmp_path / "r", overwrite=True, progress=False)
    assert model.config.seed == 1


@pytest.mark.long
def test_baselines(inputs, tmp_path):
    config, catalog, features, events = inputs
    split = events.split("time")
    model, _ = train(config, catalog, features, split, tmp_path / "r", progress=False)
    results = evaluate_run(tmp_path / "r", "test", ["id_only", "text"])
    assert [name for name in results if name != "recent"] == ["model", "popularity", "id_only", "text"]
    assert (tmp_path / "r" / "baselines" / "id_only.npz").exists()
    assert evaluate_run(tmp_path / "r", "test", ["id_only"])["id_only"] == results["id_only"]
    # Asked by users alone, an export has the recall that is printed for known users, and nothing that a user has.
    loaded = LoadedModel(mmtfrs.export(model, tmp_path / "m", encoders={}))
    known = results["model"].get("known_users", results["model"])["recall@20"]
    assert recall_by_user_alone(loaded, split.test) == pytest.approx(known, abs=5e-4)
    baseline = train_baseline("id_only", model, split, tmp_path / "r" / "baselines")
    assert baseline.data.modalities == () and baseline.config.model.history_length == 0
    with pytest.raises(ConfigError, match="unknown baseline `idonly`. Did you mean `id_only`"):
        train_baseline("idonly", model, split)


@pytest.mark.long
def test_kill_9_then_the_same_command_goes_on(demo, demo_events, demo_store, tmp_path, jobs):
    shutil.copytree(demo_store, tmp_path / "store")
    config = tmp_path / "c.yaml"
    config.write_text("training: {epochs: 5, patience: 5, batch_size: 512}\nmodel: {embedding_dim: 16, hidden: [16]}\n")
    offline = [part for name in ("image", "text", "audio") for part in (f"--{name}-encoder", "offline")]
    command = [
        "mmtfrs.cli.app",
        "train",
        "--items",
        demo / "items.csv",
        "--events",
        demo_events,
        "--out",
        tmp_path / "r",
        "--config",
        config,
        "--store",
        tmp_path / "store",
        *offline,
    ]
    job = jobs(*command)
    job.line("epoch 2/")
    job.kill()
    assert not (tmp_path / "r" / "weights.npz").exists()
    job = jobs(*command)
    assert job.wait() == 0, job.stderr
    assert "resuming after epoch" in job.stderr and "epoch 1/" not in job.stderr
    history = json.loads((tmp_path / "r" / "history.json").read_text())
    losses = [logs["loss"] for logs in history]
    assert len(losses) == 5 and max(losses[2:]) < losses[0]  # it did not begin anew
    assert mmtfrs.load_run(tmp_path / "r").data.modalities == ("image", "text", "audio")


@pytest.mark.long
def test_refit_uses_all_events_for_as_many_epochs_as_were_best(inputs, tmp_path):
    config, catalog, features, events = inputs
    config = config.replace(training={"epochs": 5, "patience": 2, "refit": True, "learning_rate": 0.05})
    split = events.split("time")
    model, _history = train(config, catalog, features, split, tmp_path / "r", progress=False)
    both = split.test.known
    expected = mmtfrs.TwoTower(config, catalog, features, both)  # its tables, and other weights
    assert model.data.user_ids.tolist() == expected.data.user_ids.tolist()
    np.testing.assert_array_equal(model.data.item_counts, expected.data.item_counts)
    np.testing.assert_array_equal(model.data.users["text"].rows, expected.data.users["text"].rows)
    assert model.data.item_counts.sum() == len(both)
    loaded = mmtfrs.load_run(tmp_path / "r")
    np.testing.assert_allclose(loaded.candidate_embeddings(), model.candidate_embeddings(), atol=1e-6)
    found = evaluate_run(tmp_path / "r", "test", ["ease"])
    assert found["ease"]["recall@20"] > 0 and next(iter(found)) == "model"
    # What a killed evaluation measured is not measured again; of other weights it is.
    kept = tmp_path / "r" / "evaluation" / "test.json"
    document = json.loads(kept.read_text())
    del document["rows"]["popularity"]
    document["rows"]["ease"] = {"recall@20": 7.0}
    document["sum"] = zlib.crc32(json.dumps(document["rows"]).encode())
    kept.write_text(json.dumps(document))
    again = evaluate_run(tmp_path / "r", "test", ["ease"])
    assert again["ease"] == {"recall@20": 7.0} and {name: again[name] for name in found if name != "ease"} == {
        name: found[name] for name in found if name != "ease"
    }
    kept.write_text(json.dumps(document | {"mark": "of other weights"}))
    assert evaluate_run(tmp_path / "r", "test", ["ease"]) == found
    with pytest.raises(RunError, match="was trained on its validation events too"):
        evaluate_run(tmp_path / "r", "validation")


@pytest.mark.long
def test_a_log_without_validation_part_finds_its_epochs_too(inputs, tmp_path, capsys):
    config, catalog, features, events = inputs
    config = config.replace(training={"epochs": 6, "patience": 2, "refit": True, "learning_rate": 0.05})
    model, history = train(config, catalog, features, events.split("none"), tmp_path / "r")
    best = int(np.argmax([logs["val_recall@20"] for logs in history])) + 1
    printed = capsys.readouterr().err
    assert f"refitting on training and validation events, {best} epochs" in printed
    assert f"epoch {best}/{best}" in printed.partition("refitting")[2]
    assert model.data.item_counts.sum() == len(events)


def _rated_log(sessions: bool) -> mmtfrs.Events:
    """200 users who take 20 items each: all of them in one session of their own, or over all of the time."""
    rng = np.random.default_rng(0)
    rows = [
        (user, item, user * 1000 + n if sessions else rng.integers(200_000))
        for user in range(200)
        for n, item in enumerate(rng.choice(np.arange(user % 2, 100, 2), 20, False))
    ]
    return mmtfrs.Events([f"u{user}" for user, _, _ in rows], [f"i{item}" for _, item, _ in rows], [time for *_, time in rows])


@pytest.mark.slow
def test_popularity_is_that_of_what_is_asked():
    """Timestamps count each user's own events, so that the newest of the log are those of few users, who take other items."""
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", item, n) for user in range(300) for n, item in enumerate(rng.permutation(40)[:8])]
    rows += [(f"long{user}", 40 + item, 8 + n) for user in range(8) for n, item in enumerate(rng.permutation(60)[:50])]
    users, items, times = zip(*rows, strict=True)
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{item}" for item in range(100)]})
    split = mmtfrs.Events(users, [f"i{item}" for item in items], times).split("user")
    model = mmtfrs.TwoTower(
        mmtfrs.Config(**FAST, seed=1).replace(training={"epochs": 1}), catalog, mmtfrs.Features({}), split.train
    )
    assert np.isfinite(model.data.fade)
    asked, _ = fit_to_best(model, split)
    assert asked.data.fade == np.inf and np.array_equal(asked.data.faded, asked.data.item_counts)


@pytest.mark.long
def test_epochs_are_found_on_users_who_are_asked_again(capsys):
    """Where every user came once, the newest events are of users nobody knew: a random part stands for what is asked."""
    config = mmtfrs.Config(**FAST)
    found = {sessions: inner_split(_rated_log(sessions).split("none"), config) for sessions in (True, False)}
    assert found[True].kind == "random" and found[False].kind == "time"
    assert min(map(returning_users, found.values())) > 150
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{n}" for n in range(100)]})
    split = _rated_log(True).split("none")
    config = config.replace(training={"epochs": 25, "patience": 5, "refit": None, "learning_rate": 0.02})
    tables = mmtfrs.TwoTower(config, catalog, mmtfrs.Features({}), split.train)
    _, history = fit_to_best(tables, split, progress=True)
    said = capsys.readouterr().err
    assert (
        "the best epoch is found on a random 10% of the events, of " in said and "refitting on training and validation" in said
    )
    assert len(history) > 5 and "does not beat popularity" not in said


@pytest.mark.slow
def test_a_run_that_does_not_beat_popularity_says_so(capsys):
    """Everybody takes at random what is popular: there is nothing to learn beside it."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(60, 0.3))
    users, items = np.repeat(np.arange(40), 3), np.concatenate([rng.choice(60, 3, False, shares) for _ in range(40)])
    events = mmtfrs.Events([f"u{user}" for user in users], [f"i{item}" for item in items], np.arange(120))
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{n}" for n in range(60)]})
    split = events.split("random", 0.2, 0.0)
    config = mmtfrs.Config(**FAST).replace(training={"epochs": 1, "learning_rate": 1e-6}, evaluation={"monitor": "recall@5"})
    model = mmtfrs.TwoTower(config, catalog, mmtfrs.Features({}), split.train)
    model.blend.assign([1.0, 0.0])
    fit_to_best(model, split, progress=True)
    said = capsys.readouterr().err
    assert "known users are too few to tell epochs apart" in said
    assert "this run does not beat popularity on validation: recall@5" in said


@pytest.mark.long
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("u", f"i{n}") for n in range(20)], "too few events to set some apart"),
        ([(f"u{n}", f"i{n % 20}") for n in range(40)], "of 0 known users"),
        ([(f"u{n % 4}", f"i{n % 3}") for n in range(30)], "too few events to set some apart"),
    ],
    ids=["one user", "one event a user", "three items"],
)
def test_logs_that_say_little_train_all_the_same(rows, said, capsys):
    catalog = mmtfrs.Catalog.from_dict({"item_id": sorted({item for _, item in rows})})
    events = mmtfrs.Events([user for user, _ in rows], [item for _, item in rows], np.arange(len(rows)))
    config = mmtfrs.Config(**FAST).replace(training={"epochs": 2, "refit": None})
    split = events.split("none")
    model, history = fit_to_best(mmtfrs.TwoTower(config, catalog, mmtfrs.Features({}), split.train), split, progress=True)
    assert len(history) == 2 and np.isfinite(model.candidate_embeddings()).all()
    assert said in capsys.readouterr().err
    # A validation part that asks for nothing new is none.
    again = dataclasses.replace(split, train=events, validation=events.take(np.arange(3), events))
    fit_to_best(mmtfrs.TwoTower(config, catalog, mmtfrs.Features({}), events), again, progress=True)
    assert "no validation event is on an item that is new to its user" in capsys.readouterr().err
