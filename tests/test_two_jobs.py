"""Two jobs at once on one folder: one waits, or is refused by name, whichever came first."""

from __future__ import annotations

import logging
import shutil
import time

import pytest
from conftest import FAST, run_cli
from models.test_two_tower import planted

import mmtfrs
from mmtfrs.errors import RunError, TuningError
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.versions import alone, prune, reading, versions
from mmtfrs.models.run import load_run, save_run
from mmtfrs.models.run_folder import training_in, using
from mmtfrs.training.baselines import evaluate_run
from mmtfrs.training.train import train
from tuning.job import searching_in
from tuning.search import search
from tuning.search_data import SearchData


def _holds(hold, folder):
    """Another process that has a folder until it is killed."""
    with hold(folder):
        print("holds", flush=True)
        time.sleep(600)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    catalog, features, events = planted()
    split = events.split("random", 0.2, 0.2, 1)
    model = mmtfrs.TwoTower(mmtfrs.Config(**FAST), catalog, features, split.train)
    folder = tmp_path_factory.mktemp("made") / "run"
    save_run(model, folder, split)
    return model, catalog, features, split, folder


_DATA = ["--items", "none.csv", "--events", "none.csv", "--out"]
_RUN = "another process is using this run folder. Wait for it, or give another --out."
_TRAINED = "another process is training this run. Wait for it, or take another run."
_SEARCH = "another process is searching in this folder. Wait for it, or give another --out."


@pytest.mark.parametrize(
    ("held", "job", "message"),
    [
        (training_in, lambda made, run: train(made[0].config, *made[1:4], run, progress=False), _RUN),
        (training_in, lambda made, run: save_run(made[0], run), _RUN),
        (training_in, lambda made, run: load_run(run), _TRAINED),  # an export, a comparison, `missing`, `index-report`
        (training_in, lambda made, run: evaluate_run(run, "test", []), _TRAINED),
        (using, lambda made, run: train(made[0].config, *made[1:4], run, overwrite=True, progress=False), _RUN),
        (using, lambda made, run: save_run(made[0], run), _RUN),
    ],
    ids=["train+train", "train+save", "train+export", "train+evaluate", "evaluate+train", "evaluate+save"],
)
def test_on_a_run(made, tmp_path, jobs, held, job, message):
    run = shutil.copytree(made[-1], tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    other = jobs(_holds, held, run)
    other.line("holds")
    with pytest.raises(RunError, match=message):
        job(made, run)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    other.kill()  # the system frees what it held
    with training_in(run):
        pass


def test_many_may_read_a_run(made, jobs):
    jobs(_holds, using, made[-1]).line("holds")
    assert load_run(made[-1]).data.item_ids.tolist() == made[0].data.item_ids.tolist()


@pytest.mark.parametrize(("command", "held", "message"), [("train", training_in, _RUN), ("tune", searching_in, _SEARCH)])
def test_a_command_is_refused_before_it_reads_anything(tmp_path, jobs, command, held, message):
    jobs(_holds, held, tmp_path / "out").line("holds")
    done = run_cli(command, *_DATA, tmp_path / "out")
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}/out: {message}\n")


def test_on_a_search(made, tmp_path, jobs):
    other = jobs(_holds, searching_in, tmp_path / "s")
    other.line("holds")
    config, data = mmtfrs.Config(**FAST).replace(evaluation={"ks": (5, 20)}), SearchData(*made[1:4])
    with pytest.raises(TuningError, match=_SEARCH):
        search(config, data, tmp_path / "s", trials=1)
    assert not list((tmp_path / "s").iterdir())


def _second(kind, folder):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if kind == "export":
        mmtfrs.export(load_run(folder / "1" / "assets.extra" / "model"), folder)
    else:
        catalog = mmtfrs.Catalog.from_dict({"item_id": ["i0", "new"], "text": ["one", "two"]})
        refresh(folder, catalog, folder.parent / "store", progress=False)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["export", "refresh"])
def test_an_export_or_refresh_waits_for_the_one_before(tiny, tmp_path, jobs, kind):
    """And comes after it: what the first has made is not lost."""
    folder = shutil.copytree(tiny, tmp_path / "m")
    first = jobs(_holds, alone, folder)
    first.line("holds")
    second = jobs(_second, kind, folder)
    second.line(f"{folder}: waiting for another export or refresh to end")
    shutil.copytree(folder / "1", tmp_path / "2")
    (tmp_path / "2").rename(folder / "2")
    assert second.poll() is None
    first.kill()
    assert second.wait() == 0, second.stderr
    assert versions(folder) == [1, 2, 3]
    with reading(folder) as path:
        assert path == folder / "3"


def test_a_version_that_is_read_stays(tiny, tmp_path, jobs, caplog, monkeypatch):
    folder = tmp_path / "m"
    for number in "12":
        shutil.copytree(tiny / "1", folder / number)
    reader = jobs(_holds, reading, folder / "1")
    reader.line("holds")
    assert prune(folder, 1) == [] and f"{folder}/1: stays until the next export, for it is being read" in caplog.text
    reader.kill()
    found = [folder / "1", folder / "2"]  # the newest when it was looked for, and when it was opened
    assert prune(folder, 1) == [1]
    monkeypatch.setattr("mmtfrs.exporting.versions.newest_version", lambda _: found.pop(0))
    with reading(folder) as path:
        assert path == folder / "2"
