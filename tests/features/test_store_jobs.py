"""Two jobs on one feature store: one at a time writes, whoever reads keeps what it has."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import OFFLINE, ROOT, run_cli, wait_until

from mmtfrs import Catalog, Config, encoders, extract

CONFIG = Config(encoders=OFFLINE, extraction={"batch_size": 8})


def _items(path, count):
    path.write_text("item_id,text\n" + "".join(f"i{n},text number {n}\n" for n in range(count)))
    return path


def _slow(items, store, begun, go):
    """Extracts, and waits in its second batch until the file `go` is there."""
    real, batches = encoders.load, []

    def load(modality, name):
        encoder = real(modality, name)
        encode = encoder.encode_batch

        def watched(media):
            batches.append(len(media))
            if len(batches) == 2:
                open(begun, "w").close()
                wait_until(lambda: os.path.exists(go))
            return encode(media)

        encoder.encode_batch = watched
        return encoder

    encoders.load = load
    extract(Catalog.read(items), CONFIG, store, progress=False)


@pytest.mark.slow
def test_whoever_comes_second_is_refused_by_name(tmp_path, jobs):
    few, many, store = _items(tmp_path / "few.csv", 20), _items(tmp_path / "many.csv", 60), tmp_path / "store"
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{n % 5},i{n % 20},{n}\n" for n in range(60))
    )
    whole = extract(Catalog.read(many), CONFIG, tmp_path / "whole", progress=False).items["text"][:]
    reader = extract(Catalog.read(few), CONFIG, store, progress=False).items["text"]
    rows = reader.rows.copy()
    job = jobs(_slow, str(many), str(store), str(tmp_path / "begun"), str(tmp_path / "go"))
    wait_until(lambda: (tmp_path / "begun").exists() or job.poll() is not None)
    same = ("--items", few, "--store", store, "--text-encoder", "offline")
    with_log = ("--events", tmp_path / "events.csv", "--out", tmp_path / "out")
    for command in (("extract", *same), ("train", *same, *with_log), ("tune", *same, *with_log, "--trials", 1)):
        refused = run_cli(*command)
        assert refused.returncode == 1 and not (tmp_path / "out").exists()
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error")]
        assert line == f"error: {store}: another process is extracting into this feature store. Wait for it, or use another."
    np.testing.assert_array_equal(reader[:], whole[:20])
    (tmp_path / "go").touch()
    assert job.wait() == 0, job.stderr
    np.testing.assert_array_equal(reader[:], whole[:20])
    after = extract(Catalog.read(many), CONFIG, store, progress=False)
    assert after.encoded == 0 and (after.items["text"].rows[:20] == rows).all()
    np.testing.assert_array_equal(after.items["text"][:], whole)


@pytest.mark.long
def test_a_full_disk_and_a_flipped_bit():
    """A small draw of the scripts that do so to each command."""
    for script, *arguments in (("full_disk", "--commands", "extract", "--points", "3"), ("flip", "store", "--positions", "6")):
        done = subprocess.run(
            [sys.executable, "-m", f"tests.faults.{script}", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(("extract: full at 3 of 3 points", "store: 6 bits; ")), done.stdout
