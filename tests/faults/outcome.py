"""Running one of the commands, and reading what came out of it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.commands import Command
from tests.processes import Job, Jobs


def start(command: Command, inputs: Path, folder: Path, jobs: Jobs, before: tuple = ()) -> Job:
    return jobs(command.module, *command.arguments(inputs, folder), before=before)


def found(command: Command, inputs: Path, folder: Path, jobs: Jobs) -> dict[str, str]:
    """What a command has made, by name."""
    job = jobs(command.tell, str(inputs), str(folder))
    assert job.wait() == 0, f"{command.name}: {job.stderr}"
    return json.loads(job.stdout.splitlines()[-1])
