"""What goes wrong while a version is written leaves the versions as they were, each of them whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import FAST, ROOT, run_cli, unwarmed
from models.test_two_tower import planted
from processes import snapshots

import mmtfrs
from mmtfrs.exporting.versions import versions
from mmtfrs.models.run import load_run, save_run
from serving.served_model import ServedModel


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose export takes two seconds: 60 items, features of the user's own."""
    folder = tmp_path_factory.mktemp("run") / "run"
    catalog, features, events = planted()
    save_run(mmtfrs.TwoTower(mmtfrs.Config(**FAST), catalog, features, events), folder)
    return folder


def _serves(folder) -> int:
    """The version that a server takes, after its warm-up; what is half written must be none to it."""
    model = ServedModel("m", folder)
    assert model.refresh()
    assert sorted(model.statuses) == [model.current.version], "a version was tried that cannot be loaded"
    return model.current.version


@pytest.mark.long
def test_an_export_killed_between_any_two_of_its_changes(run, tmp_path, jobs):
    """The files as they are before each change are those that a kill right there leaves."""
    folder = tmp_path / "m"
    model = load_run(run)
    unwarmed(mmtfrs.export(model, folder))
    export = jobs("mmtfrs.cli.app", "export", run, folder, before=(snapshots, str(folder), str(tmp_path / "left")))
    assert export.wait() == 0 and versions(folder) == [1, 2], export.stderr
    left = sorted((tmp_path / "left").iterdir())
    seen = [versions(each) for each in left]
    renamed = seen.index([1, 2]) if [1, 2] in seen else len(left)  # its last change, or pruning follows
    assert renamed > 10 and seen[:renamed] == [[1]] * renamed and seen[renamed:] == [[1, 2]] * (len(left) - renamed)
    half, whole = left[renamed // 2], left[renamed - 1]
    assert len([*half.glob("**/*")]) < len([*whole.glob("**/*")]) and any(".part-" in path.name for path in whole.iterdir())
    assert _serves(whole) == 1
    mmtfrs.export(model, half)  # goes on as if nothing had been
    assert versions(half) == [1, 2] and _serves(half) == 2
    assert not [path for path in half.iterdir() if not path.name.isdigit()]


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


@pytest.mark.long
def test_a_disk_that_is_full(run, tmp_path):
    """A file system of its own that has room for the version that is there, and for half of another."""
    assert run_cli("export", run, tmp_path / "there").returncode == 0
    version = tmp_path / "there" / "1"
    size = sum(path.stat().st_size for path in version.rglob("*")) * 3 // 2
    (tmp_path / "disk").mkdir()
    script = _FULL.format(size=size, folder=tmp_path / "disk", version=version, python=sys.executable, run=run)
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[-200:]}")
    assert done.stdout.split() == ["exit", "1", "1"], done.stdout + done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert "cannot be written" in error and "No space left on device" in error and "Traceback" not in done.stderr
