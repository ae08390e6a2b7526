"""Baselines against their formulas, the bootstrap against what it must find, and media that go missing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import FAST, OFFLINE, run_cli

import mmtfrs
from mmtfrs import Catalog, Config, Events, Features
from mmtfrs.errors import ConfigError
from mmtfrs.evaluation.ease import EaseScorer, gram_matrix, inversion_seconds, taken
from mmtfrs.evaluation.item_knn import ItemKNNScorer
from mmtfrs.evaluation.missing_modalities import ALL, missing_curve, without_media
from mmtfrs.evaluation.significance import mean_interval, paired_bootstrap
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.histories import Histories
from mmtfrs.training import baselines
from mmtfrs.training.baselines import _peak, train_baseline


def _log(users=40, items=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = [(f"u{u}", f"i{i}") for u in range(users) for i in rng.choice(items, 5, False)]
    events = Events(*zip(*rows, strict=True), np.arange(len(rows)))
    tables = ModelInputs.build(Config(), Catalog.from_dict({"item_id": [f"i{n}" for n in range(items)]}), Features({}), events)
    return events, tables, Histories(tables, events)


def test_ease_is_the_constrained_ridge_regression():
    """Each column of B solves its own ridge regression on all other columns: the definition, column by column."""
    events, _tables, histories = _log()
    users = sorted(set(events.user_ids))
    x = taken(histories.pasts(users), 12).toarray().astype(np.float64)
    gram = gram_matrix(histories.pasts(users), 12)
    np.testing.assert_allclose(gram, x.T @ x)
    scorer = EaseScorer(gram, 3.0)
    for column in range(12):
        others = [n for n in range(12) if n != column]
        a = x[:, others]
        expected = np.linalg.solve(a.T @ a + 3.0 * np.eye(11), a.T @ x[:, column])
        np.testing.assert_allclose(scorer.weights[others, column], expected, atol=1e-5)
    assert not scorer.weights.diagonal().any()
    np.testing.assert_allclose(
        scorer.scores(np.array(users[:3], object), histories.pasts(users[:3])), x[:3] @ scorer.weights, atol=1e-5
    )


def test_ease_takes_the_penalty_that_validation_likes():
    events, _, _ = _log(users=60)
    split = events.split("random", 0.2, 0.1)
    catalog = Catalog.from_dict({"item_id": [f"i{n}" for n in range(12)]})
    model = mmtfrs.TwoTower(Config(**FAST), catalog, Features({}), split.train)
    assert train_baseline("ease", model, split).penalty in (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)


def test_ease_is_left_out_where_it_would_take_longer_than_the_training(monkeypatch, caplog):
    events, _, _ = _log(users=60)
    split = events.split("random", 0.2, 0.1)
    catalog = Catalog.from_dict({"item_id": [f"i{n}" for n in range(12)]})
    model = mmtfrs.TwoTower(Config(**FAST), catalog, Features({}), split.train)
    assert inversion_seconds(12) < 1.0  # of twelve items: no time at all
    assert train_baseline("ease", model, split, seconds=0.0) is not None
    monkeypatch.setattr(baselines, "inversion_seconds", lambda items: 2.0 * items)  # 24 s, five times
    assert train_baseline("ease", model, split, seconds=119.0) is None
    assert "ease is left out: it would take about 120 s, and the model was trained in 119" in caplog.text
    assert train_baseline("ease", model, split, seconds=121.0) is not None


@pytest.mark.parametrize("best", range(6))
def test_the_peak_is_found_without_trying_everything(best):
    tried = []

    def worth(value):
        tried.append(value)
        return -abs(value - best)

    assert _peak(range(6), worth) == best
    assert len(tried) == len(set(tried)) and (best == 0 or len(tried) < 6)


def test_ease_with_media_sees_likeness_as_events():
    """Items that are alike are predicted from each other though nobody took both: the regression, column by column."""
    gram = np.diag([5.0, 4.0, 6.0, 3.0]).astype(np.float32)
    content = np.eye(4) + 0.9 * (np.eye(4)[[1, 0, 3, 2]])
    weights = EaseScorer(gram, 2.0, content, 10.0).weights
    whole = gram + 10.0 * content + 2.0 * np.eye(4)
    for column in range(4):
        others = [n for n in range(4) if n != column]
        expected = np.linalg.solve(whole[np.ix_(others, others)], whole[others, column])
        np.testing.assert_allclose(weights[others, column], expected, atol=1e-6)
    assert weights[0, 1] > 0.3 and weights[0, 2] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(EaseScorer(gram, 2.0, content, 0.0).weights, EaseScorer(gram, 2.0).weights)


def test_item_knn_by_hand():
    content = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    events = Events(["u", "v"], ["a", "c"], [1, 2])
    tables = ModelInputs.build(Config(), Catalog.from_dict({"item_id": list("abcd")}), Features({}), events)
    users = np.array(["u", "v", "w"], object)
    scores = ItemKNNScorer(content, neighbors=2).scores(users, Histories(tables, events).pasts(users))
    np.testing.assert_allclose(scores, [[0, 0.8, 0, 0], [0, 0.6, 0, 0], [0, 0, 0, 0]], atol=1e-6)
    # u took a: its neighbors are b (0.8) and c (0.0); v took c: b (0.6) and a or d (0.0).


@pytest.mark.long
def test_bpr_beats_popularity_on_planted_groups():
    from models.test_two_tower import planted

    catalog, _, events = planted()
    split = events.split("user")
    model = mmtfrs.TwoTower(
        Config(**FAST).replace(training={"epochs": 30, "learning_rate": 0.02}), catalog, Features({}), split.train
    )
    bpr = train_baseline("bpr", model, split)
    assert bpr.config.loss.name == "bpr" and bpr.config.model.score == "dot"
    results = mmtfrs.evaluate(bpr, split.test, ks=(10,))
    assert results["model"]["recall@10"] > 1.3 * results["popularity"]["recall@10"]


def test_unknown_baseline(small):
    with pytest.raises(ConfigError, match=r"unknown baseline `eas`. Did you mean `ease`\?"):
        train_baseline("eas", small[0], small[1])


def test_bootstrap_finds_what_is_there():
    rng = np.random.default_rng(0)
    base = rng.random(500)
    better = paired_bootstrap("recall@20", base, base + rng.normal(0.05, 0.1, 500))
    assert better.p_value < 0.001 and better.low > 0 and better.low < 0.05 < better.high and better.users == 500
    # The interval of a mean is 1.96 standard errors on each side.
    half = 1.96 * 0.1 / np.sqrt(500)
    assert abs((better.high - better.low) / 2 - half) < 0.2 * half
    same = [paired_bootstrap("x", base, base + rng.normal(0, 0.1, 500), 2000, seed).p_value for seed in range(20)]
    assert np.mean(np.array(same) < 0.05) <= 0.2
    assert paired_bootstrap("x", base, base).p_value == 1.0


def test_interval_by_hand():
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)  # Student's t of two degrees of freedom
    many = np.arange(21.0)
    assert mean_interval(many)[1] == pytest.approx(2.085963 * many.std(ddof=1) / np.sqrt(21), rel=1e-6)  # and of twenty
    assert np.isnan(mean_interval([1.0])[1])


def test_media_are_removed_and_come_back(small):
    model, split, _ = small
    before = model.candidate_embeddings()
    rows = model.device.items["image"].rows.numpy()
    with without_media(model, ["image"], 0.5):
        left = model.device.items["image"].rows.numpy()
        there = rows > 0
        assert abs((left[there] > 0).mean() - 0.5) < 0.01 and not left[~there].any()
        changed = np.abs(model.candidate_embeddings() - before).max(axis=1) > 1e-6
        assert (changed[left[1:] != rows[1:]]).mean() > 0.99 and not changed[left[1:] == rows[1:]].any()
    np.testing.assert_array_equal(model.candidate_embeddings(), before)
    curve = missing_curve(model, split.test, (0.0, 0.75))
    assert set(curve) == {ALL, "image", "text", "audio"}
    whole = mmtfrs.evaluate(model, split.test, ks=(20,))["model"]["recall@20"]
    assert all(abs(values[0] - whole) < 1e-9 for values in curve.values())


@pytest.mark.long
def test_by_the_command_line(demo, demo_events, demo_store, tmp_path):
    (tmp_path / "c.yaml").write_text(
        json.dumps({"encoders": OFFLINE, **FAST, "model": {**FAST["model"], "modalities": ["text"]}})
    )
    command = [
        "train",
        "--items",
        demo / "items.csv",
        "--events",
        demo_events,
        "--config",
        tmp_path / "c.yaml",
        "--store",
        tmp_path / "store",
    ]
    shutil.copytree(demo_store, tmp_path / "store")
    for seed in (1, 2):
        assert run_cli(*command, "--out", tmp_path / f"r{seed}", "--seed", seed).returncode == 0
    compared = run_cli("compare", tmp_path / "r1", tmp_path / "r2", "--json")
    document = json.loads(compared.stdout)
    assert [each["metric"] for each in document["differences"]] == ["recall@20", "ndcg@20"]
    assert all(each["low"] <= each["second"] - each["first"] <= each["high"] for each in document["differences"])
    assert "paired bootstrap" in run_cli("compare", tmp_path / "r1", tmp_path / "r2", "--metrics", "recall@5").stdout
    wrong = run_cli("compare", tmp_path / "r1", tmp_path / "r2", "--metrics", "recal@5")
    assert wrong.returncode == 1 and "Did you mean `recall`?" in wrong.stderr
    missing = run_cli("missing", tmp_path / "r1")
    assert missing.returncode == 0 and "all media" in missing.stdout and "75%" in missing.stdout, missing.stderr
    assert (tmp_path / "r1" / "missing.png").read_bytes()[:4] == b"\x89PNG"
    evaluated = run_cli("evaluate", tmp_path / "r1", "--baselines", "ease,item_knn")
    assert evaluated.returncode == 0 and "EASE" in evaluated.stdout and (tmp_path / "r1" / "metrics.png").exists()
    assert run_cli(*command, "--out", tmp_path / "other", "--split", "random").returncode == 0
    other = run_cli("compare", tmp_path / "r1", tmp_path / "other")
    assert other.returncode == 1 and "have different events in their test part" in other.stderr
