"""What killed processes leave is removed by the next one; what living ones are writing never is."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest

import mmtfrs
from mmtfrs.encoders import published
from mmtfrs.errors import StoreError, WriteError
from mmtfrs.exporting.versions import new_version, prune, versions
from mmtfrs.utils.leftovers import part_folder, remove_leftovers


def _writes(folder):
    """Begins a version and never ends."""
    with new_version(folder) as part:
        (part / "half").write_text("half")
        print(part.name, flush=True)
        time.sleep(600)


def test_of_a_killed_export_and_a_living_one(tmp_path, jobs):
    dead, living = jobs(_writes, tmp_path), jobs(_writes, tmp_path)
    names = [each.line(".part-") for each in (dead, living)]
    dead.kill()
    assert {path.name for path in tmp_path.iterdir()} == {*names}  # it could not clean up
    with new_version(tmp_path) as part:
        (part / "whole").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {names[1], "1"}
    assert (tmp_path / names[1] / "half").read_text() == "half" and living.poll() is None
    living.kill()
    # A version that was being removed, as `prune` renames it first.
    shutil.copytree(tmp_path / "1", tmp_path / ".gone-7")
    (tmp_path / ".part-file").write_text("of somebody else")
    with pytest.raises(WriteError, match="No space left"), new_version(tmp_path):
        raise OSError("No space left on device")
    assert {path.name for path in tmp_path.iterdir()} == {"1", ".part-file"} and versions(tmp_path) == [1]
    assert prune(tmp_path, 1) == []


def test_the_lock_goes_with_its_process_not_with_its_name(tmp_path, jobs):
    """Renamed under its owner's hands it is still the owner's; a copy is nobody's."""
    job = jobs(_writes, tmp_path)
    name = job.line(".part-")
    (tmp_path / name).rename(tmp_path / ".part-moved")
    shutil.copytree(tmp_path / ".part-moved", tmp_path / ".part-copy")
    (tmp_path / ".part-link").symlink_to(tmp_path / ".part-moved")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".part-link", ".part-moved"] and (tmp_path / ".part-moved" / "half").exists()


def _makes_many(folder, count):
    for number in range(count):
        with part_folder(Path(folder)) as part:
            (part / "mine").write_text(str(number))
            remove_leftovers(Path(folder))
            assert (part / "mine").read_text() == str(number)


def test_nobody_takes_what_another_has_just_made(tmp_path, jobs):
    """Also in the moment between a folder and its lock."""
    workers = [jobs(_makes_many, tmp_path, 150) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["open", "flock"])
def test_a_folder_that_is_gone_before_it_is_locked(when, tmp_path, monkeypatch):
    """Right before the first call, another process finds the new folder without a lock."""
    calls, module = [], {"open": os, "flock": fcntl}[when]
    usual = getattr(module, when)

    def late(*arguments, **named):
        if not calls:
            calls.append(arguments)
            (made,) = tmp_path.iterdir()
            made.rmdir()
        return usual(*arguments, **named)

    monkeypatch.setattr(module, when, late)
    with part_folder(tmp_path) as part:
        assert calls and part.is_dir()
    assert not list(tmp_path.iterdir())


def _fetches(cache):
    os.environ["MMTFRS_CACHE"] = str(cache)

    def download(name, found, folder):
        (folder / "half.whl").write_text("half")
        print(folder.name, flush=True)
        time.sleep(600)

    published._download = download
    published.get("minilm")


def test_of_a_killed_download(tmp_path, jobs, monkeypatch):
    job = jobs(_fetches, tmp_path)
    name = job.line(".part-")
    job.kill()
    monkeypatch.setenv("MMTFRS_CACHE", str(tmp_path))
    published._place("minilm").mkdir(parents=True)  # another process has fetched it meanwhile
    assert next(tmp_path.rglob(name))
    published.get("minilm")
    assert not list(tmp_path.rglob(".part-*"))


def test_of_a_killed_extraction(tmp_path):
    """The next one in the store removes it; one that finds another at work touches nothing."""
    catalog = mmtfrs.Catalog.from_dict({"item_id": ["a"], "text": ["one"]})
    config = mmtfrs.Config(encoders={"text": "offline"})
    (tmp_path / "store").mkdir()
    left = tmp_path / "store" / "vectors-0123456789ab.npz.part"
    left.write_text("half")
    with (tmp_path / "store" / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process is extracting"):
            mmtfrs.extract(catalog, config, tmp_path / "store", progress=False)
        assert left.exists()
    mmtfrs.extract(catalog, config, tmp_path / "store", progress=False)
    assert not left.exists()
