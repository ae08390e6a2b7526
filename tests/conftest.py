"""Data and models that several tests share: each is made once, for all workers, and only read."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import gc
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Two workers on two cores, each with a thread for every core, would wait for each other: a tenth of the suite's minutes.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
import pytest
from processes import ROOT, Jobs, run_cli, run_python, wait_until

import mmtfrs
from mmtfrs.data.demo import write_demo
from mmtfrs.encoders import published
from mmtfrs.errors import EncoderError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.models.run import load_run, save_run
from mmtfrs.models.run_folder import load_split

_numbers = itertools.count()
# A traced graph is objects without number that live on: to look through them for cycles is a twentieth of the suite.
gc.set_threshold(50_000)

__all__ = ["FAST", "OFFLINE", "REAL", "ROOT", "run_cli", "run_python", "wait_until"]

REAL = ROOT.parent / "shared" / "real"
OFFLINE = {"image": "offline", "text": "offline", "audio": "offline"}
FAST = {
    "training": {"epochs": 3, "batch_size": 256, "refit": False},
    "model": {"embedding_dim": 16, "hidden": (16,), "feature_dim": 32, "history_length": 50},
}


@pytest.fixture
def jobs(tmp_path_factory):
    """`jobs("mmtfrs.cli.app", "train", ...)` starts a command in a process of its own, which ends with the test at the latest."""
    made = Jobs(tmp_path_factory.mktemp("jobs"))
    yield made
    made.end()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`own(source)`: the name of a new module with this source."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        name = f"own_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return make


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real inputs; tests that need it are skipped where it is absent."""
    if not (REAL / "yamnet" / "yamnet.h5").exists():
        pytest.skip("the real inputs (../shared/real) are not here")
    return REAL


@pytest.fixture(scope="session")
def once(tmp_path_factory, request) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: a folder that the first worker makes by `make(folder)`, and the others find."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if hasattr(request.config, "workerinput") else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        with locked(base / name):
            made = base / f"{name}.made"
            if not made.exists():
                make(base / name)
                made.touch()
        return base / name

    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One worker at a time."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def demo(once) -> Path:
    """The demo catalog; its items again with an attribute are in `shop.csv`."""

    def make(folder: Path) -> None:
        write_demo(folder)
        with (folder / "items.csv").open(newline="") as source, (folder / "shop.csv").open("w", newline="") as target:
            header, *rows = csv.reader(source)
            named = [[*row, ("food", "space", "")[number % 3]] for number, row in enumerate(rows)]
            csv.writer(target).writerows([[*header, "category"], *named])

    return once("demo", make)


@pytest.fixture(scope="session")
def real_encoders() -> None:
    """What `auto` takes where nothing else is downloaded: real weights, out of the package index."""
    for name in ("minilm", "efficientnet-lite0"):
        try:
            published.get(name)
        except EncoderError as error:
            pytest.skip(f"the weights of {name} are not here: {error}")


@pytest.fixture(scope="session")
def demo_store(demo, once) -> Path:
    """A feature store that has all of the demo's media, by the offline encoders. Copy it before anything is added."""

    def make(folder: Path) -> None:
        catalog, users = mmtfrs.Catalog.read(demo / "items.csv"), mmtfrs.Users.read(demo / "users.csv")
        mmtfrs.extract(catalog, mmtfrs.Config(encoders=OFFLINE), store=folder, users=users, progress=False)

    return once("store", make)


@pytest.fixture(scope="session")
def demo_features(demo, demo_store, once):
    """`(catalog, users, features, config)` of the demo catalog, offline encoders."""
    config = mmtfrs.Config(encoders=OFFLINE, data={"attributes": ("category",)})
    catalog, users = mmtfrs.Catalog.read(demo / "shop.csv"), mmtfrs.Users.read(demo / "users.csv")
    with locked(demo_store):  # a store has one user at a time
        features = mmtfrs.extract(catalog, config, store=demo_store, users=users, progress=False)
    return catalog, users, features, config


@pytest.fixture(scope="session")
def demo_events(demo, once) -> Path:
    """An events file with a tenth of the demo's users."""

    def make(folder: Path) -> None:
        header, *lines = (demo / "events.csv").read_text().splitlines()
        folder.mkdir()
        (folder / "events.csv").write_text("\n".join([header, *(line for line in lines if line.split(",")[0].endswith("7"))]))

    return once("events", make) / "events.csv"


@pytest.fixture(scope="session")
def small_run(demo, demo_features, once) -> Path:
    """The run folder of a small model on all demo items and a tenth of the users, three epochs."""

    def make(folder: Path) -> None:
        catalog, _, features, config = demo_features
        events = mmtfrs.Events.read(demo / "events.csv", catalog=catalog)
        events = events.take(np.flatnonzero([user.endswith("3") for user in events.user_ids]))
        split = events.split("time")
        model = mmtfrs.TwoTower(config.replace(**FAST), catalog, features, split.train)
        model.compile(optimizer="adam")
        model.fit(model.dataset(split.train), epochs=3, verbose=0)
        save_run(model, folder, split)

    return once("run", make)


@pytest.fixture(scope="session")
def small(small_run, demo_features):
    """`(model, split, catalog)` of the small run; tests leave the model's weights as they are."""
    catalog, _, features, _ = demo_features
    model = load_run(small_run)
    model.keep_encoders(features.encoders)
    return model, load_split(small_run), catalog


@pytest.fixture(scope="session")
def exported(small, once) -> Path:
    """The small model as `saved_models/small/1`, moved after the export."""

    def make(folder: Path) -> None:
        mmtfrs.export(small[0], folder / "first" / "small")
        (folder / "first").rename(folder / "moved")

    return once("saved_models", make) / "moved" / "small"


@pytest.fixture(scope="session")
def loaded(exported) -> LoadedModel:
    return LoadedModel(exported)


@pytest.fixture(scope="session")
def tiny(once) -> Path:
    """`saved_models/tiny`, version 1: 60 items `i0` to `i59` with texts alone, 120 users `u0` to `u119`, for tests of what is
    around a model."""
    from models.test_two_tower import planted

    def make(folder: Path) -> None:
        _, _, events = planted()
        ids = [f"i{n}" for n in range(60)]
        catalog = mmtfrs.Catalog.from_dict({"item_id": ids, "text": [f"a text about {n % 7} and {n}" for n in range(60)]})
        config = mmtfrs.Config(encoders={"text": "offline"}, **FAST)
        features = mmtfrs.extract(catalog, config, store=folder / "store", progress=False)
        unwarmed(mmtfrs.export(mmtfrs.TwoTower(config, catalog, features, events), folder / "tiny"))

    return once("tiny_models", make) / "tiny"


def unwarmed(version: Path) -> Path:
    """A version without its warm-up records, which take a server some seconds."""
    records, sums = (version / "assets.extra" / name for name in ("tf_serving_warmup_requests", "sums.json"))
    records.unlink()
    kept = json.loads(sums.read_text())
    del kept["assets.extra/tf_serving_warmup_requests"]
    sums.write_text(json.dumps(kept))
    return version
