"""Run folders: what was saved comes back, what is no run is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import mmtfrs
from mmtfrs.errors import RunError
from mmtfrs.models.run_folder import load_split


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    mmtfrs.save_run(small[0], folder, small[1])
    return folder


def test_round_trip(small, run):
    model, split, _ = small
    again = mmtfrs.load_run(run)
    np.testing.assert_array_equal(again.candidate_embeddings(), model.candidate_embeddings())
    parts = load_split(run)
    for name in ("train", "validation", "test"):
        assert sorted(getattr(parts, name).item_ids) == sorted(getattr(split, name).item_ids)
    assert len(parts.test.known) == len(split.test.known)
    first, second = (mmtfrs.evaluate(each, part.test)["model"] for each, part in ((model, split), (again, parts)))
    assert first == second


def test_what_is_no_run(tmp_path, run):
    with pytest.raises(RunError, match="not a run folder"):
        mmtfrs.load_run(tmp_path)
    for name, change, message in (
        ("version", lambda path: _edit(path / "run.json", format=99), "the run is of format 99"),
        ("unfinished", lambda path: (path / "weights.npz").unlink(), "the training has not ended"),
        ("damaged", lambda path: (path / "weights.npz").write_bytes(b"x"), "the run is damaged"),
        ("json", lambda path: (path / "run.json").write_text("{"), "not a run folder"),
    ):
        shutil.copytree(run, tmp_path / name)
        change(tmp_path / name)
        with pytest.raises(RunError, match=message):
            mmtfrs.load_run(tmp_path / name)


def test_a_run_of_another_shape(tmp_path, run):
    shutil.copytree(run, tmp_path / "r")
    text = (tmp_path / "r" / "config.yaml").read_text()
    (tmp_path / "r" / "config.yaml").write_text(text.replace("embedding_dim: 16", "embedding_dim: 8"))
    with pytest.raises(RunError, match="the run is damaged"):
        mmtfrs.load_run(tmp_path / "r")


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
