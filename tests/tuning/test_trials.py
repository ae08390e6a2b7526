"""What the folders of trials tell, and what comes of it: the threshold for pruned trials, importance, tables and pages."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet
import pytest

from mmtfrs import Config
from mmtfrs.utils.files import write_json
from tuning.importance import importance, positions
from tuning.live import table
from tuning.report import trials_table
from tuning.search_objective import Objective
from tuning.space import Space
from tuning.trials import Row, Trials, read_lines

GOAL = Objective("recall@20", "max")


def _trial(folder, name, curve, done=True, values=None, **more):
    path = folder / "trials" / f"trial_{name}"
    path.mkdir(parents=True)
    write_json(path / "spec.json", {"values": values or {"model.dropout": 0.1}, "bar": []})
    lines = [json.dumps({"epoch": n, "time": 2.0 * n, "val_recall@20": value}) for n, value in enumerate(curve, start=1)]
    (path / "history.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if done:
        write_json(path / "result.json", {"metrics": {"recall@20": max(curve)}, "pruned": False, **more})
    return path


def test_the_bar_is_the_median_of_the_best_so_far(tmp_path):
    for name, curve in enumerate([[1, 5, 2], [2, 2, 2, 2], [3, 1, 4, 9]]):
        _trial(tmp_path, str(name), curve)
    _trial(tmp_path, "3", [100], done=False)
    trials = Trials(tmp_path, GOAL)
    assert trials.bar(4) == []  # three are too few
    # Best so far: 1 5 5 (5), 2 2 2 2, 3 3 4 9; the medians from the third epoch on are 4 and 5.
    assert trials.bar(2) == [None, None, 4, 5]


def test_rows_leaders_and_time(tmp_path):
    _trial(tmp_path, "0", [0.1, 0.2])
    _trial(tmp_path, "1", [0.4])
    running = _trial(tmp_path, "2", [0.3], done=False)
    (running / "history.jsonl").write_text((running / "history.jsonl").read_text() + '{"epoch": 2, "ti')  # cut off
    failed = _trial(tmp_path, "10", [], done=False)
    write_json(failed / "trial.json", {"status": "FAILED", "message": "no memory"})
    trials = Trials(tmp_path, GOAL)
    assert [(row.id, row.status, row.score) for row in trials.rows()] == [
        ("0", "completed", 0.2),
        ("1", "completed", 0.4),
        ("2", "running", None),
        ("10", "failed", None),
    ]
    assert [row.id for row in trials.leaders()] == ["1", "0"] and trials.rows()[3].note == "no memory"
    assert [row.id for row in Trials(tmp_path, Objective("recall@20", "min")).leaders()] == ["0", "1"]
    assert trials.spent() == 4.0 + 2.0 + 2.0
    assert read_lines(running / "history.jsonl")[-1]["epoch"] == 1
    assert table(trials, 9).row_count == 3


def _rows(count, score):
    rng = np.random.default_rng(0)
    space = Space(
        Config(
            tuning={
                "defaults": False,
                "space": {
                    "model.dropout": {"min": 0.0, "max": 0.5},
                    "loss.temperature": {"min": 0.01, "max": 1.0, "scale": "log"},
                    "model.fusion": ["concat", "gated", "graph"],
                },
            }
        )
    )
    rows = []
    for number in range(count):
        values = {
            "model.dropout": rng.uniform(0, 0.5),
            "loss.temperature": float(10 ** rng.uniform(-2, 0)),
            "model.fusion": str(rng.choice(["concat", "gated", "graph"])),
        }
        rows.append(Row(str(number), "completed", values, score(values), {"recall@20": score(values)}, [], 1.0))
    return space, rows


def test_positions_on_their_scales():
    space, _ = _rows(0, None)
    row = Row("0", "completed", {"model.dropout": 0.25, "loss.temperature": 0.1, "model.fusion": "graph"}, 1.0, {}, [], 1.0)
    np.testing.assert_allclose(positions(space, [row]), [[0.5, 0.5, 1.0]])


def test_importance_finds_what_was_planted():
    space, rows = _rows(60, lambda values: 2.0 * values["model.dropout"] + (values["model.fusion"] == "gated"))
    found = importance(space, rows)
    assert found["model.fusion"] > found["model.dropout"] > 5 * found["loss.temperature"]
    assert sum(found.values()) == pytest.approx(1.0)
    assert importance(space, rows[:5]) == {}


def test_the_table_of_trials(tmp_path):
    _, rows = _rows(4, lambda values: values["model.dropout"])
    rows.append(Row("4", "failed", {**rows[0].values}, None, {}, [], 0.0, "no memory"))
    pyarrow.parquet.write_table(trials_table(rows, ["model.dropout", "model.fusion"]), tmp_path / "t.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert read["score"][:4] == read["model.dropout"][:4] == read["val_recall@20"][:4] and read["score"][4] is None
    assert read["note"][4] == "no memory" and set(read["model.fusion"]) <= {"concat", "gated", "graph"}


def test_a_trial_that_is_not_finite_never_wins(tmp_path):
    """Whatever the direction: NaN sorts anywhere."""
    for direction in ("max", "min"):
        folder = tmp_path / direction
        for name, value in enumerate([float("nan"), 0.3, float("inf"), -float("inf"), 0.2]):
            write_json(_trial(folder, str(name), [0.1]) / "result.json", {"metrics": {"loss": value}, "pruned": False})
        trials = Trials(folder, Objective("loss", direction))
        assert [row.id for row in trials.leaders()] == (["1", "4"] if direction == "max" else ["4", "1"])
        assert [row.status for row in trials.rows()] == ["failed", "completed", "failed", "failed", "completed"]
        assert trials.rows()[0].note == "the trial has no finite loss: nan"
