"""Data and models that several tests share, each made once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mmtfrs
from mmtfrs.data.demo import write_demo

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "real"
OFFLINE = {"image": "offline", "text": "offline", "audio": "offline"}
FAST = {
    "training": {"epochs": 3, "batch_size": 256, "refit": False},
    "model": {"embedding_dim": 16, "hidden": (16,), "feature_dim": 32, "history_length": 50},
}


def run_python(code: str, *arguments, timeout: float = 300, **environment) -> subprocess.CompletedProcess:
    """A fresh process with a plain environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")} | environment
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=env,
        cwd=ROOT, check=False,
    )  # fmt: skip


def wait_until(condition, seconds: float = 120) -> None:
    """Fails when the condition does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def run_cli(*arguments, timeout: float = 600, cwd=ROOT) -> subprocess.CompletedProcess:
    """`mmtfrs ...` in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "mmtfrs.cli", *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
        cwd=cwd, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real inputs; tests that need it are skipped where it is absent."""
    if not (REAL / "yamnet" / "yamnet.h5").exists():
        pytest.skip("the real inputs (../shared/real) are not here")
    return REAL


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The demo catalogue."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


@pytest.fixture(scope="session")
def demo_features(demo, tmp_path_factory):
    """`(catalog, users, features, config)` of the demo catalogue, offline encoders."""
    config = mmtfrs.Config(encoders=OFFLINE)
    catalog = mmtfrs.Catalog.read(demo / "items.csv")
    users = mmtfrs.Users.read(demo / "users.csv")
    store = tmp_path_factory.mktemp("store")
    features = mmtfrs.extract(catalog, config, store=store, users=users, progress=False)
    return catalog, users, features, config


@pytest.fixture(scope="session")
def small(demo, demo_features):
    """`(model, split, catalog)`: a small model on all demo items and a tenth of the users, three epochs."""
    catalog, _, features, config = demo_features
    config = config.replace(**FAST)
    events = mmtfrs.Events.read(demo / "events.csv", catalog=catalog)
    events = events.take(np.flatnonzero([user.endswith("3") for user in events.user_ids]))
    split = events.split("time")
    model = mmtfrs.TwoTower(config, catalog, features, split.train)
    model.compile(optimizer="adam")
    model.fit(model.dataset(split.train), epochs=3, verbose=0)
    return model, split, catalog


@pytest.fixture(scope="session")
def exported(small, tmp_path_factory) -> Path:
    """The small model as `saved_models/small/1`, moved after the export."""
    model, _, _ = small
    folder = tmp_path_factory.mktemp("saved_models")
    mmtfrs.export(model, folder / "first" / "small")
    (folder / "first").rename(folder / "moved")
    return folder / "moved" / "small"
