"""What is written is there whole or not at all, with the modes that the user's umask says; what cannot be written is one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import ROOT, run_cli
from PIL import Image

from mmtfrs._keras import tf
from mmtfrs.errors import DataError, WriteError
from mmtfrs.exporting.versions import new_version, prune, versions
from mmtfrs.utils.files import check_writable, remove, replacing, write_arrays, write_error, write_json, writing

FULL = "/dev/full"  # every write to it finds a full disk; opened here, for what is given its name may remove it
_NUMBERS = np.arange(100_000.0)


def _python():
    with open(FULL, "w") as file:
        file.write("x")


def _arrays():
    with open(FULL, "wb", buffering=0) as file:
        write_arrays(file, [("a", _NUMBERS)])


def _hdf5():
    raise RuntimeError("Unable to flush file's cached data (errno = 28, error message = 'No space left on device')")


def _records():
    with tf.io.TFRecordWriter(FULL) as writer:
        writer.write(b"x" * 1_000_000)


@pytest.mark.parametrize(
    "write",
    [
        _python,
        _arrays,
        _hdf5,
        _records,
        lambda: np.save(open(FULL, "wb", buffering=0), _NUMBERS),  # noqa: SIM115
        lambda: tf.io.write_file(FULL, "x" * 1_000_000),
        lambda: pyarrow.parquet.write_table(pa.table({"a": _NUMBERS}), open(FULL, "wb", buffering=0)),  # noqa: SIM115
        lambda: Image.new("RGB", (300, 300)).save(open(FULL, "wb", buffering=0), "PNG"),  # noqa: SIM115
    ],
    ids=["python", "arrays", "hdf5", "records", "numpy", "tensorflow", "parquet", "image"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_full_disk_is_one_line_whoever_finds_it(write):
    with pytest.raises(WriteError) as told, writing("the/file"):
        write()
    assert str(told.value) == (
        "the/file: cannot be written (No space left on device). Make room and run the same command again."
    )


def _hidden():
    """What a library raises while it closes a file that it could not write."""
    error = ValueError("seek of closed file")
    error.__context__ = OSError(errno.ENOSPC, "full")
    return error


def _bug():
    """What fails while a file that could not be read is dealt with."""
    error = KeyError("k")
    error.__context__ = PermissionError(errno.EACCES, "x")
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EROFS, "x"), "(Read-only file system). Make it writable, or name another place."),
        (PermissionError(errno.EACCES, "x"), "(Permission denied). Make it writable, or name another place."),
        (OSError(errno.EIO, "x"), "(Input/output error). Mend that and run the same command again."),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "(Not a directory). Mend that"),
        (_hidden(), "(No space left on device). Make room and run the same command again."),
        (ValueError("seek of closed file"), None),
        (ValueError("s3://b/x: Permission denied"), None),
        (_bug(), None),
        (DataError("row 3: No space left on device"), None),  # ours have been told
    ],
    ids=str,
)
def test_which_errors_are_of_writing(error, line):
    found = write_error(error, "f")
    assert found is None if line is None else str(found).startswith(f"f: cannot be written {line}")


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_no_part(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    for error in (OSError(errno.ENOSPC, "full"), FileNotFoundError("a source"), ValueError("a fault"), KeyboardInterrupt()):
        with pytest.raises((WriteError, ValueError, KeyboardInterrupt)), replacing(tmp_path / "a.json") as file:
            file.write(b"half")
            raise error
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    (tmp_path / "b.json.part").write_text("what a kill has left, and longer than what comes")
    write_json(tmp_path / "b.json", 1)
    assert (tmp_path / "b.json").read_text() == "1" and not (tmp_path / "b.json.part").exists()
    with pytest.raises(WriteError, match=r"a\.json/c\.json: cannot be written \(Not a directory\)"):
        write_json(tmp_path / "a.json" / "c.json", 1)
    for place in (tmp_path / "a.json", tmp_path / "a.json" / "below"):
        with pytest.raises(WriteError, match="cannot be written"):
            check_writable(place)
    check_writable(tmp_path / "not" / "there" / "yet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def _writes_many(path, number):
    for _ in range(10):
        with replacing(path) as file:
            for _ in range(50):
                file.write(b"%d" % number)
                file.flush()


def test_two_that_write_one_file_at_once(tmp_path, jobs):
    """Each file that a reader finds is one of them, whole."""
    writers = [jobs(_writes_many, tmp_path / "file", number) for number in (1, 2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "file").exists():
            seen.add((tmp_path / "file").read_bytes())
    assert [writer.wait() for writer in writers] == [0, 0], writers[0].stderr + writers[1].stderr
    assert seen <= {b"1" * 50, b"2" * 50} and seen and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_modes_are_those_that_the_user_wants(tmp_path, umask):
    before = os.umask(umask)
    try:
        with new_version(tmp_path / "m") as part:
            (part / "saved_model.pb").write_bytes(b"x")
        write_json(tmp_path / "m" / "a.json", 1)
    finally:
        os.umask(before)
    for path in (tmp_path / "m", *(tmp_path / "m").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_what_cannot_be_removed_is_told(tmp_path, monkeypatch, caplog):
    for _ in range(2):
        with new_version(tmp_path) as part:
            (part / "x").write_text("x")
    usual = os.rmdir

    def stuck(path, *, dir_fd=None):
        if str(path).endswith(".gone-1"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        usual(path, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", stuck)
        assert prune(tmp_path, 1) == [1]
    (record,) = caplog.records
    assert record.levelname == "ERROR" and f"{tmp_path}/.gone-1: cannot be removed (Operation not permitted)" in caplog.text
    with new_version(tmp_path) as part:  # it goes with the next export
        (part / "x").write_text("x")
    assert sorted(os.listdir(tmp_path)) == ["2", "3"] and versions(tmp_path) == [2, 3]
    remove(tmp_path / "nothing")
    assert len(caplog.records) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "document"),
    [
        (["evaluate", "--baselines", "none"], "results"),
        pytest.param(["missing"], "curve", marks=pytest.mark.long),
        pytest.param(["index-report", "--recalls", "0.9"], "measured", marks=pytest.mark.long),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_results_are_printed_before_files_that_cannot_be_written(small_run, tmp_path, command, document):
    shutil.copytree(small_run, tmp_path / "run")
    name = {"evaluate": "metrics", "missing": "missing", "index-report": "index"}[command[0]]
    for each in (f"{name}.json", f"{name}.png", "evaluation"):  # a folder in the place of a file, and the other way round
        (tmp_path / "run" / each).mkdir() if each != "evaluation" else (tmp_path / "run" / each).touch()
    done = run_cli(command[0], tmp_path / "run", *command[1:], "--json")
    assert done.returncode == 1 and json.loads(done.stdout)[document], done.stderr
    assert "Traceback" not in done.stderr
    for each in (f"{name}.json", f"{name}.png", *(["evaluation"] if name == "metrics" else [])):
        assert f"{tmp_path}/run/{each}: cannot be written" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, command):
    (tmp_path / "file").touch()
    done = run_cli(command, "--items", "none.csv", "--events", "none.csv", "--out", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path}/file/out: cannot be written (Not a directory). Mend that and run the same command again.\n"
    )


def test_a_full_disk_below_what_is_printed():
    with open(FULL, "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mmtfrs.cli", "version"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
    assert done.returncode == 1 and "cannot be written (No space left on device)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
