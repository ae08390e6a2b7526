"""kill -9 at random moments: the same command, run until it ends, must end as if it had not been killed.

    python -m tests.faults.kill [--commands extract,train,...] [--kills 30] [--seed 0]

A command runs once unbroken. Then it is killed again and again, at moments drawn evenly over the time that it took, and started
again, until it ends: in a new folder as long as there are kills left. Each end is held against the unbroken one: weights,
tables, metrics and trials bit for bit, exports by their answers, a feature store by its rows; no file is left that the unbroken
one has not, and no process.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.commands import COMMANDS, Command, make_inputs
from tests.processes import Job, Jobs, started, wait_until, working

_LONG = 3600.0  # seconds after which something hangs, on a machine that has much else to do


class Killer:
    """Kills a command until it ends.

    Args:
        command: what is run.
        folder: of everything that it needs and writes; made anew for each run.
        inputs: of `make_inputs`.
        jobs: starts processes.
        random: draws the moments.
    """

    def __init__(self, command: Command, folder: Path, inputs: Path, jobs: Jobs, random: random.Random) -> None:
        self._command, self._folder, self._inputs, self._jobs, self._random = command, folder, inputs, jobs, random
        begin = time.monotonic()
        self._whole = self._begin("whole")
        self._end(self._start(self._whole))
        self.seconds = time.monotonic() - begin
        self.expected = self._found(self._whole)
        self._files = set(_files(self._whole))

    def run(self, kills: int) -> tuple[int, list[str]]:
        """Kills until it ends, at most so many times; returns how many it were, and what is wrong then."""
        folder, killed = self._begin("killed"), 0
        while True:
            begin, job = time.monotonic(), self._start(folder)
            if killed < kills and job.ended_in(self._random.uniform(0, self.seconds)) is None:
                job.kill()
                wait_until(lambda: not working(self._folder), 20)  # else a process is left
                killed += 1
            else:
                self._end(job)
                break
        if not killed:  # the machine has less to do than it had
            self.seconds = time.monotonic() - begin
        found = self._found(folder)
        wrong = [name for name in sorted({*found, *self.expected}) if found.get(name) != self.expected.get(name)]
        wrong += [f"left behind: {name}" for name in sorted({*_files(folder)} - self._files)]
        if not wrong:
            shutil.rmtree(folder)
        return killed, wrong

    def _begin(self, name: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"{self._command.name}-{name}-", dir=self._folder))
        for needed in self._command.needs:
            shutil.copytree(self._inputs / needed, folder / needed)
        return folder

    def _start(self, folder: Path) -> Job:
        return self._jobs(self._command.module, *self._command.arguments(self._inputs, folder))

    def _end(self, job: Job) -> None:
        assert job.wait(_LONG) == 0, f"{self._command.name}: {job.stderr}"

    def _found(self, folder: Path) -> dict[str, str]:
        job = self._jobs(self._command.tell, str(self._inputs), str(folder))
        self._end(job)
        return json.loads(job.stdout.splitlines()[-1])


def _files(folder: Path) -> Iterator[str]:
    """All but the curves of TensorBoard, of which each process writes its own; a version's number does not matter, for a command
    that is killed behind the last thing it does writes one more."""
    for path in folder.rglob("*"):
        if not path.is_dir() and "tfevents" not in path.name:
            yield re.sub(r"^shop/\d+/", "shop/N/", str(path.relative_to(folder)))


def main() -> int:
    """The number of ends that were not as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default=",".join(COMMANDS), help="of " + ", ".join(COMMANDS))
    parser.add_argument("--kills", type=int, default=30, help="of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work; what is wrong stays there")
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="mmtfrs-kill-"))).resolve()
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    bad = 0
    with started(folder / "jobs") as jobs:
        names = given.commands.split(",")
        inputs = make_inputs(folder / "inputs", jobs, [COMMANDS[name] for name in names])
        for name in names:
            killer = Killer(COMMANDS[name], folder, inputs, jobs, random.Random(f"{given.seed} {name}"))
            kills = ends = 0
            while kills < given.kills:
                count, wrong = killer.run(given.kills - kills)
                kills, ends, bad = kills + count, ends + 1, bad + bool(wrong)
                for line in wrong:
                    print(f"{name}: {line}", file=sys.stderr, flush=True)
            print(f"{name}: {kills} kills in {ends} runs of {killer.seconds:.1f} s, {bad} wrong so far", flush=True)
    if not bad and given.folder is None:
        shutil.rmtree(folder)
    return bad


if __name__ == "__main__":
    sys.exit(min(main(), 1))
