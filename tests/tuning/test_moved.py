"""Search folders that are moved or copied, and trials that failed for what is around them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from models.test_two_tower import planted
from test_oracles import _end, _oracle
from test_search_jobs import small_config

import mmtfrs
from mmtfrs.errors import ConfigError, RunError
from mmtfrs.features.features import FeatureRows, Features
from tuning.job import METHODS
from tuning.process import run_trial
from tuning.search import search
from tuning.search_data import SearchData
from tuning.surroundings import Surroundings, is_around, is_marked, mark


def _stored(path, order) -> SearchData:
    """The planted catalog, its text features in a file as a store has them, in some order."""
    catalog, features, events = planted()
    rows = features.items["text"]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(rows)[order].astype("<f4").tofile(path)
    matrix = np.memmap(path, "<f4", "r", shape=(len(rows), rows.dim))
    made = Features({"text": FeatureRows(matrix, np.argsort(order), "mark")})
    return SearchData(catalog, made, events.split("random", 0.2, 0.2, 1))


def _texts(folder) -> np.ndarray:
    return np.asarray(SearchData.load(folder).features.items["text"])


def test_what_is_moved_together_is_found_and_another_ones_features_are_not_read(tmp_path):
    first, second = np.arange(60), np.arange(60)[::-1]
    data = _stored(tmp_path / "a" / "features" / "text.f32", first)
    expected = np.asarray(data.features.items["text"])
    data.save(tmp_path / "a" / "search" / "data")
    assert str(tmp_path) not in (tmp_path / "a" / "search" / "data" / "data.json").read_text()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "c")
    for place in ("b", "c"):
        np.testing.assert_array_equal(_texts(tmp_path / place / "search" / "data"), expected)
    shutil.copytree(tmp_path / "b" / "search", tmp_path / "alone")
    with pytest.raises(Surroundings, match="The same `mmtfrs tune` writes it again"):
        _texts(tmp_path / "alone" / "data")
    # Extracted anew, the store has the same features in other rows, and as many; a search that goes on points at them.
    again = _stored(tmp_path / "b" / "features" / "text.f32", second)
    with pytest.raises(Surroundings, match="has other features than this search was begun with"):
        _texts(tmp_path / "b" / "search" / "data")
    again.save(tmp_path / "b" / "search" / "data")
    np.testing.assert_array_equal(_texts(tmp_path / "b" / "search" / "data"), expected)
    # A store that has only grown is the same one.
    with (tmp_path / "b" / "features" / "text.f32").open("ab") as file:
        file.write(bytes(64))
    np.testing.assert_array_equal(_texts(tmp_path / "b" / "search" / "data"), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_that_failed_for_its_surroundings_is_tried_again(method, tmp_path):
    oracle = _oracle(method, tmp_path / "s")
    for number in range(5):
        trial = oracle.create_trial("tuner0")
        _end(oracle, trial, failed=number in (1, 4))
        if number == 4:
            mark(tmp_path / "s" / "trials" / f"trial_{trial.trial_id}")
    again = _oracle(method, tmp_path / "s")
    again.reload()
    tried = again.create_trial("tuner0")
    assert tried.trial_id == trial.trial_id and tried.hyperparameters.values == trial.hyperparameters.values
    _end(again, tried)
    assert again.create_trial("tuner0").trial_id not in (tried.trial_id, "01")


def test_what_is_around_a_trial():
    def told(error: Exception, cause: Exception | None = None) -> bool:
        try:
            try:
                if cause is not None:
                    raise cause
            except Exception:
                raise error from None
            raise error
        except Exception as caught:
            return is_around(caught)

    assert told(FileNotFoundError()) and told(MemoryError()) and told(Surroundings())
    assert told(RunError("the run cannot be written"), OSError(28, "No space left on device"))
    assert not told(ConfigError("no")) and not told(RunError("no"), ValueError())


@pytest.mark.slow
def test_a_trial_without_its_features_is_marked(tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps({"data": "nowhere"}))
    with pytest.raises(mmtfrs.Error, match="cannot be read"):
        run_trial(tmp_path)
    assert is_marked(tmp_path)


@pytest.mark.long
def test_a_search_that_was_moved_goes_on_and_tries_again_what_failed(tmp_path, capfd):
    """Four trainings in two searches, the first of which loses its store."""
    store = tmp_path / "a" / "features" / "text.f32"
    data = _stored(store, np.arange(60))

    def run(folder, trials, data):
        return search(small_config(), data, folder, trials=trials, method="random").rows()

    assert [row.status for row in run(tmp_path / "a" / "s", 1, data)] == ["completed"]
    (tmp_path / "a" / "s").rename(tmp_path / "moved")
    data = _stored(tmp_path / "elsewhere" / "features" / "text.f32", np.arange(60)[::-1])
    assert [row.status for row in run(tmp_path / "moved", 2, data)] == ["completed"] * 2
    # The features go while the search is at work.
    save, lost = SearchData.save, tmp_path / "elsewhere" / "features" / "text.f32"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchData, "save", lambda self, folder: save(self, folder) or lost.rename(lost.with_suffix(".away")))
        failed = run(tmp_path / "moved", 3, data)[-1]
    assert failed.status == "failed" and failed.again and "text.f32" in failed.note
    lost.with_suffix(".away").rename(lost)
    assert [row.status for row in run(tmp_path / "moved", 3, data)] == ["completed"] * 3
    assert "Traceback" not in capfd.readouterr().err
