"""Real searches with real trials: killed and resumed, failing, shared by workers, and from the command line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pyarrow.parquet
import pytest
from conftest import FAST, OFFLINE, run_cli, wait_until
from models.test_two_tower import planted

from mmtfrs import Config
from mmtfrs.data.splits import Split
from mmtfrs.errors import TuningError, WriteError
from tuning.job import Job
from tuning.outcome import write_best
from tuning.search import search
from tuning.search_data import SearchData
from tuning.search_objective import Objective
from tuning.trials import Trials

SPACE = {
    "model.dropout": {"min": 0.0, "max": 0.5},
    "model.fusion": ["concat", "gated"],
    "training.learning_rate": [0.003, 0.01],
}


def small_data() -> SearchData:
    catalog, features, events = planted()
    return SearchData(catalog, features, events.split("random", 0.2, 0.2, 1))


def small_config(space=None, **sections) -> Config:
    config = Config(**FAST).replace(tuning={"space": space or SPACE, "defaults": False}, evaluation={"ks": (5, 20)})
    return config.replace(**sections)


def _search(folder, trials, workers=0):
    search(small_config(), small_data(), folder, trials=trials, method="random", workers=workers)


def _rows(folder):
    return Trials(folder, Objective("recall@20", "max")).rows()


def _working(folder) -> list[int]:
    """Processes that have a file below a folder open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while it is looked at
            if any(os.readlink(link).startswith(f"{folder}/") for link in (process / "fd").iterdir()):
                found.add(int(process.name))
    return sorted(found)


@pytest.mark.long
def test_a_search_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path, jobs):
    whole = jobs(_search, tmp_path / "whole", 2)
    killed = jobs(_search, tmp_path / "killed", 2)  # beside it: nothing here depends on how long things take
    wait_until(lambda: (tmp_path / "killed" / "trials" / "trial_1" / "history.jsonl").exists())
    killed.kill()
    wait_until(lambda: not _working(tmp_path / "killed"))  # its trial has ended with it
    assert whole.wait() == 0, whole.stderr
    first = (tmp_path / "killed" / "trials" / "trial_0" / "result.json").stat().st_mtime
    again = jobs(_search, tmp_path / "killed", 2)
    assert again.wait() == 0, again.stderr
    assert (tmp_path / "killed" / "trials" / "trial_0" / "result.json").stat().st_mtime == first
    ours, theirs = _rows(tmp_path / "killed"), _rows(tmp_path / "whole")
    assert [row.values for row in ours] == [row.values for row in theirs] and len(ours) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert {**one.metrics, "seconds": 0} == {**other.metrics, "seconds": 0}
    assert min(json.loads(path.read_text())["first_step"] for path in tmp_path.glob("*/trials/*/result.json")) > 0


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path):
    """The log has no ratings, so the rating task cannot be trained."""
    found = search(small_config({"loss.rating": [0.0, 0.5]}), small_data(), tmp_path / "s", trials=5, method="random")
    done, failed = found.rows()
    assert done.status == "completed" and 0.3 < done.score <= 1
    assert failed.status == "failed" and "needs events with ratings" in failed.note
    assert write_best(tmp_path / "s", found) and Config.read(tmp_path / "s" / "best_config.yaml").loss.rating == 0.0


@pytest.mark.slow
def test_a_trial_over_its_time_is_ended(tmp_path):
    found = search(small_config(), small_data(), tmp_path / "s", trials=1, method="random", minutes=0.01)
    (row,) = found.rows()
    assert row.status == "failed" and row.note == "over its time of 0.01 minutes"
    assert not _working(tmp_path / "s")
    with pytest.raises(TuningError, match=r"no trial was completed. The last failed: over its time"):
        write_best(tmp_path / "s", found)


@pytest.mark.long
def test_two_workers_share_a_search_and_one_that_dies_is_survived(tmp_path, jobs):
    """Takes fifteen seconds: three workers load TensorFlow, and what forks their trials does too."""
    folder = tmp_path / "s"
    job = jobs(_search, folder, 3, 2)
    # The trial of worker-0 is stopped as soon as it runs, so that it cannot end before its worker does.
    wait_until(lambda: _trials_of(_worker(folder, "worker-0"), folder))
    os.kill(_trials_of(_worker(folder, "worker-0"), folder)[0], signal.SIGSTOP)
    os.kill(_worker(folder, "worker-0"), signal.SIGKILL)
    assert job.wait() == 0, job.stderr
    rows = _rows(folder)
    assert len(rows) == 3 and all(row.status == "completed" for row in rows)
    assert re.search(r"worker-0 lost; trial \d re-queued", job.stderr)
    wait_until(lambda: not _worker(folder, "worker-0") and not _worker(folder, "worker-1") and not _working(folder))


def _worker(folder, name) -> int:
    """The process of a worker, 0 if there is none."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if str(folder).encode() in words and f"KERASTUNER_TUNER_ID={name}".encode() in (path / "environ").read_bytes():
                return int(path.name)
    return 0


def _trials_of(worker: int, folder) -> list[int]:
    """Processes with a trial's log open that a worker's fork server has started."""

    def parent(pid: int) -> int:
        with contextlib.suppress(OSError):
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return 0

    return [pid for pid in _working(folder / "trials") if worker and parent(parent(pid)) == worker]


def _job(config=None, data=None, **changes):
    settings = {"method": "random", "objective": "recall@20", "trials": 3} | changes
    return Job.of(config or small_config(), data or small_data(), **settings)


def test_a_folder_of_another_search_is_refused_with_the_difference(tmp_path):
    folder = tmp_path / "s"
    _job().claim_folder(folder, small_data())
    _job(trials=9).claim_folder(folder, small_data())  # more trials are the same search
    assert Job.read(folder).trials == 9
    for other, message in [
        (_job(objective="ndcg@20"), "objective: recall@20 -> ndcg@20"),
        (_job(method="bayesian"), "method: random -> bayesian"),
        (
            _job(small_config({**SPACE, "model.fusion": ["concat", "graph"]})),
            r"space model.fusion: \['concat', 'gated'\] -> \['concat', 'graph'\]",
        ),
        (_job(small_config(training={**FAST["training"], "epochs": 9})), "training.epochs: 3 -> 9"),
    ]:
        with pytest.raises(TuningError, match=f"holds another search.*\n  {message}"):
            other.claim_folder(folder, small_data())
    data = small_data()
    fewer = SearchData(
        data.catalog,
        data.features,
        Split("random", data.split.train.take(range(300)), *(getattr(data.split, name) for name in ("validation", "test"))),
    )
    with pytest.raises(TuningError, match="the items, features or events are not the same"):
        _job(data=fewer).claim_folder(folder, fewer)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trials": 0}, "--trials must be 1 or more"),
        ({"method": "bayes"}, "Did you mean `bayesian`"),
        ({"objective": "recal@20"}, "no trial measures"),
    ],
)
def test_jobs_that_cannot_be(changes, message):
    with pytest.raises(TuningError, match=message):
        _job(**changes)


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="cannot be written"):
        _job().claim_folder(tmp_path / "file" / "s", small_data())
    with pytest.raises(TuningError, match="not empty and holds no search"):
        _job().claim_folder(tmp_path, small_data())
    with pytest.raises(TuningError, match="not a search folder"):
        Job.read(tmp_path)
    data = small_data()
    with pytest.raises(TuningError, match="has none"):
        _job(data=SearchData(data.catalog, data.features, data.split.train.split("none")))


def test_the_data_of_a_search_is_what_was_given(tmp_path, demo_features):
    _, _, features, _ = demo_features
    data = small_data()
    data.save(tmp_path / "d")
    again = SearchData.load(tmp_path / "d")
    columns = small_config(data={"attributes": ("category",), "title": "name"})  # a trial has no use for these
    assert again.mark(again.tables(columns)) == data.mark(data.tables(small_config()))
    assert again.mark(again.tables(small_config())) == data.mark(data.tables(small_config()))
    assert (again.catalog.ids == data.catalog.ids).all() and len(again.split.test) == len(data.split.test)
    stored = SearchData(data.catalog, features, data.split)
    stored.save(tmp_path / "stored")
    # Features of a store are read where they lie, not copied.
    assert not list((tmp_path / "stored").glob("*.matrix.npy")) and len(list((tmp_path / "d").glob("*.matrix.npy"))) == 2
    read = SearchData.load(tmp_path / "stored").features
    assert (read.items["image"][:20] == features.items["image"][:20]).all() and set(read.users) == set(features.users)


@pytest.mark.long
def test_from_the_command_line_to_a_trained_winner(demo, demo_events, demo_store, tmp_path):
    """Takes twenty seconds: six trainings, three of them the search's."""
    (tmp_path / "c.yaml").write_text(
        json.dumps(
            {
                "encoders": OFFLINE,
                **FAST,
                "model": {**FAST["model"], "modalities": ["text"]},
                "tuning": {"defaults": False, "space": SPACE},
                "training": {"epochs": 2, "batch_size": 2048},
            }
        )
    )
    shutil.copytree(demo_store, tmp_path / "features")
    data = ["--items", demo / "items.csv", "--events", demo_events]
    command = [*data, "--config", tmp_path / "c.yaml", "--out", tmp_path / "s", "--store", tmp_path / "features", "--trials"]

    def run(*options):
        return run_cli("tune", *command, *options)

    done = run(3, "--method", "hyperband", "--confirm-seeds", "1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["completed"] == 3 and document["recall@20"] > 0 and "trial 1" in done.stderr
    assert {*document["outcome"]["test"]} == {"winner", "default"} and document["outcome"]["test"]["winner"]["mean"] > 0
    page = (tmp_path / "s" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "Leaderboard" in page and "measured once" in page
    table = pyarrow.parquet.read_table(tmp_path / "s" / "trials.parquet").to_pydict()
    assert len(table["trial"]) == 3 and max(table["score"]) == document["recall@20"]
    assert list((tmp_path / "s" / "trials").glob("trial_*/logs/hparams/events*"))
    config = Config.read(tmp_path / "s" / "best_config.yaml")
    best = table["score"].index(document["recall@20"])
    assert config.model.dropout == table["model.dropout"][best] and config.model.fusion == table["model.fusion"][best]

    trained = run_cli(
        "train",
        *data,
        "--config",
        tmp_path / "s" / "best_config.yaml",
        "--store",
        tmp_path / "features",
        "--out",
        tmp_path / "run",
    )
    assert trained.returncode == 0, trained.stderr
    (tmp_path / "c.yaml").write_text(
        json.dumps({"encoders": OFFLINE, "tuning": {"defaults": False, "space": {"model.dropuot": [1]}}})
    )
    refused = run(3)
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1].startswith("error: `tuning.space` has no setting")
    assert "Traceback" not in refused.stderr
