"""What goes wrong while a version is written leaves the versions as they were, each of them whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_cli

from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.versions import versions
from mmtfrs.models.run import save_run
from serving.versions import ServedModel


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    save_run(small[0], folder)
    return folder


def _answers(version):
    nobody = {"item_id": np.array([b"item-0005"], object), "exclude": np.array([[b""]], object)}
    return LoadedModel(version).ask("similar_items", nobody)["item_id"].shape == (1, 100)


@pytest.mark.slow
def test_an_export_killed_at_any_moment(run, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "m")
    served = ServedModel("m", tmp_path / "m")
    assert served.refresh()
    command = [sys.executable, "-m", "mmtfrs.cli", "export", run, tmp_path / "m"]
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    whole = time.monotonic() - start
    shutil.rmtree(tmp_path / "m" / "2")
    for share in (0.6, 0.8, 0.95):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(_answers(tmp_path / "m" / str(version)) for version in versions(tmp_path / "m"))
        served.refresh()  # what is half written is no version to a server either
        assert served.current is not None and served.current.version in versions(tmp_path / "m")
    assert run_cli("export", run, tmp_path / "m").returncode == 0
    assert _answers(tmp_path / "m" / str(versions(tmp_path / "m")[-1]))


_FULL = """
set -e
mount -t tmpfs -o size={size} tmpfs {folder} || exit 77
mkdir {folder}/m
cp -r {version} {folder}/m/1
set +e
{python} -m mmtfrs.cli export {run} {folder}/m
echo "exit $?"
ls -A {folder}/m
"""


def test_a_disk_that_is_full(run, exported, tmp_path):
    """A file system of its own that has room for the version that is there, and for half of another."""
    version = exported / "1"
    size = sum(path.stat().st_size for path in version.rglob("*")) * 3 // 2
    script = _FULL.format(size=size, folder=tmp_path, version=version, python=sys.executable, run=run)
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[-200:]}")
    assert done.stdout.split() == ["exit", "1", "1"], done.stdout + done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert "cannot be written" in error and "No space left on device" in error and "Traceback" not in done.stderr
