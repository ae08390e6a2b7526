"""A small draw of what `python -m tests.faults.kill` does with every command."""

from __future__ import annotations

import pytest
from processes import run_interpreter


@pytest.mark.long
def test_commands_that_were_killed_end_as_others_do(tmp_path):
    done = run_interpreter("-m", "tests.faults.kill", "--commands", "extract,train", "--kills", 2, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split(" kills")[0] for line in done.stdout.splitlines()] == ["extract: 2", "train: 2"]
