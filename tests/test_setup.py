"""Setting up, with a Python whose pip writes down what it was asked: what is missing is one line, and nothing is done twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

PYTHON = "python{}.{}".format(*sys.version_info)
# Stands for the Python that this is: checks run on the real one; environments and installs are written down.
_FAKE = """#!/usr/bin/env bash
case "$*" in
  *"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo venv >> "{log}" ;;
  *"-m pip --version") ;;
  *"-m pip"*)
    [ ! -e "{log}.offline" ] || {{ echo "WARNING: Retrying"; echo "ERROR: Could not find a version that satisfies six"; exit 1; }}
    echo "pip ${{@: -1}}" >> "{log}" ;;
  *) exec "{python}" "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout in a folder with blanks in its name, and a path on which only the fake Python is."""
    folder = tmp_path / "a check out"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("requirements.txt", "pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, folder)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "cat", "cksum", "dirname", "flock", "grep", "mkdir", "rm", "tail", "cp", "make", "sleep"):
        os.symlink(shutil.which(name), tools / name)
    fake = tools / PYTHON
    fake.write_text(_FAKE.format(log=tmp_path / "log", python=sys.executable))
    fake.chmod(0o755)
    return folder


def _make(folder, *more):
    """`make setup`; its exit code, what it said, and what the fake Python was asked since the last time."""
    log = folder.parent / "log"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    env = {"PATH": str(folder.parent / "bin"), "HOME": str(folder.parent / "home")}
    done = subprocess.run(["make", "setup", *more], cwd=folder, env=env, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mmtfrs: ")]
    return done.returncode, lines, log.read_text().splitlines()[before:] if log.exists() else []


ALL = ["venv", "pip requirements.txt", "pip ."]


def test_made_once_and_anew_where_it_is_another(checkout):
    code, lines, asked = _make(checkout)
    assert code == 0 and asked == ALL and lines == [f"mmtfrs: making .venv with Python {sys.version.split()[0]} ({PYTHON})"]
    assert _make(checkout) == (0, [], [])
    (checkout / "pyproject.toml").open("a").write("\n# changed\n")
    assert _make(checkout)[2] == ALL[1:]  # the same lock: the environment stays
    (checkout / "requirements.txt").open("a").write("# another lock\n")
    assert _make(checkout)[2] == ALL
    shutil.rmtree(checkout / ".venv" / "bin")  # half gone
    assert _make(checkout)[2] == ALL
    moved = checkout.with_name("moved")
    checkout.rename(moved)  # its scripts hold the old path
    assert _make(moved)[2] == ALL


def test_no_network_is_one_line_and_the_next_run_goes_on(checkout):
    (checkout.parent / "log.offline").touch()
    code, lines, asked = _make(checkout)
    assert code != 0 and asked == ["venv"]
    assert lines[1:] == [
        "mmtfrs: installing failed: ERROR: Could not find a version that satisfies six (whole output in .venv/log; "
        "the same command goes on from here)"
    ]
    (checkout.parent / "log.offline").unlink()
    assert _make(checkout) == (0, [], ALL[1:])


def test_no_python_says_what_was_looked_for(checkout):
    (checkout.parent / "bin" / PYTHON).unlink()
    (checkout.parent / "bin" / "python3").symlink_to("/bin/false")  # a name that does not run
    code, (line,), asked = _make(checkout)
    assert code != 0 and not asked and not (checkout / ".venv").exists()
    assert line.startswith("mmtfrs: no Python found: looked for python3.11, python3.12, python3.13, python3.10 and a python3")
    code, (line,), _ = _make(checkout, "PYTHON=/bin/false")
    assert code != 0 and line.startswith("mmtfrs: /bin/false is no Python 3.10 to 3.13")


def test_a_folder_that_cannot_be_written_is_one_line(checkout):
    code, lines, asked = _make(checkout, "VENV=/proc/none")
    assert (
        code != 0
        and not asked
        and lines == [f"mmtfrs: cannot write /proc/none: give this folder write permission, or work on a copy of {checkout}"]
    )


def test_two_at_once_set_up_once(checkout):
    env = {"PATH": str(checkout.parent / "bin"), "HOME": "/"}
    both = [subprocess.Popen(["make", "setup"], cwd=checkout, env=env, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    assert (checkout.parent / "log").read_text().splitlines() == ALL
