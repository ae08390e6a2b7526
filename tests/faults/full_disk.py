"""A disk that is full at many points of each command: one line, and the same command goes on when there is room.

    python -m tests.faults.full_disk [--commands extract,train,...] [--points 20]

A command runs once with room enough. Then it runs in a file system of its own that holds only a part of what it writes: it must
end with exit code 1, one line that names the file and says that there is no room, and no traceback. Then the file system grows,
and the same command must end as the unbroken one. Where no file system can be mounted (a container without namespaces), no file
can grow beyond a limit instead.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.faults.commands import COMMANDS, Command, make_inputs
from tests.faults.outcome import found, start
from tests.processes import Job, Jobs, started

_INSIDE = "MMTFRS_FULL_DISK"  # in the environment of a process that may mount: "1"
_NO_ROOM = re.compile(r"No space left on device|disk is full|File too large|disk I/O error")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MountedDisk:
    """A file system in memory, of which a command may fill so many bytes."""

    unit = "bytes"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", self.folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.folder], check=True)

    def bounded(self, size: int | None) -> tuple:
        """Bounds the disk; what a job must do itself for it."""
        given = "4g" if size is None else str(-(-size // _PAGE) * _PAGE)
        subprocess.run(["mount", "-o", f"remount,size={given}", self.folder], check=True)
        return ()

    def used(self) -> int:
        system = os.statvfs(self.folder)
        return (system.f_blocks - system.f_bfree) * system.f_frsize


class LimitedFiles:
    """No file grows beyond so many bytes."""

    unit = "bytes of one file"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        self.folder.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(self.folder)

    def bounded(self, size: int | None) -> tuple:
        return () if size is None else (limit_files, size)

    def used(self) -> int:
        sizes = [0]
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # it has been renamed or removed
                sizes.append(path.stat().st_size)
        return max(sizes)


def limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class Filler:
    """Runs a command on disks that are too small for it.

    Args:
        command: what is run.
        disk: where.
        inputs: of `make_inputs`.
        jobs: starts processes.
    """

    def __init__(self, command: Command, disk: MountedDisk | LimitedFiles, inputs: Path, jobs: Jobs) -> None:
        self._command, self._disk, self._inputs, self._jobs = command, disk, inputs, jobs
        with disk.mounted():
            self._copy()
            self.least = disk.used() if isinstance(disk, MountedDisk) else 0
            with _peak(disk) as peaks:
                job = self._start(())
                assert job.wait() == 0, job.stderr
            self.most = max([*peaks, disk.used()])
            self._expected = found(command, inputs, disk.folder, jobs)

    def run(self, size: int) -> list[str] | None:
        """What is wrong with a run on a disk of this size, and with its continuation; None where there was room enough."""
        with self._disk.mounted():
            self._copy()
            job = self._start(self._disk.bounded(size))
            code = job.wait()
            if code == 0:
                return None
            wrong = _wrong(code, job.stderr, self._disk.folder)
            self._disk.bounded(None)
            again = self._start(())
            if again.wait() != 0:
                return [*wrong, f"does not go on: {again.stderr[-500:]}"]
            now = found(self._command, self._inputs, self._disk.folder, self._jobs)
            return wrong + [
                f"differs: {name}" for name in now.keys() | self._expected.keys() if now.get(name) != self._expected.get(name)
            ]

    def _copy(self) -> None:
        for needed in self._command.needs:
            shutil.copytree(self._inputs / needed, self._disk.folder / needed)

    def _start(self, before: tuple) -> Job:
        return start(self._command, self._inputs, self._disk.folder, self._jobs, before)


def _wrong(code: int, stderr: str, folder: Path) -> list[str]:
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    wrong = [] if code == 1 else [f"exit code {code}"]
    if "Traceback" in stderr:
        wrong.append(f"a traceback: {stderr[-1500:]}")
    if not errors:
        wrong.append(f"no line says what is wrong: {stderr[-500:]}")
    # A command that has computed results prints them first, and then tells of each file that could not be written.
    told = [line for line in errors if _NO_ROOM.search(line) and str(folder) in line]
    return wrong + [f"does not say where there is no room: {line}" for line in errors if line not in told]


@contextlib.contextmanager
def _peak(disk: MountedDisk | LimitedFiles) -> Iterator[list[int]]:
    """How full the disk was, looked at again and again."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            seen.append(disk.used())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def can_mount() -> bool:
    """Whether a process of ours may mount a file system in a namespace of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", folder]
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


def main() -> int:
    """The number of points at which something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in COMMANDS if name != "finetune"]
    parser.add_argument("--commands", default=",".join(known), help="of " + ", ".join(COMMANDS))
    parser.add_argument("--points", type=int, default=20, help="of each command")
    parser.add_argument("--files", action="store_true", help="limit files, where a disk could be mounted too")
    parser.add_argument("--inputs", type=Path, help="where inputs are, or are made")
    given = parser.parse_args()
    if _INSIDE not in os.environ and not given.files and can_mount():
        return subprocess.run(
            ["unshare", "-rm", sys.executable, "-m", "tests.faults.full_disk", *sys.argv[1:]],
            env={**os.environ, _INSIDE: "1"},
            check=False,
        ).returncode
    bad = 0
    with tempfile.TemporaryDirectory(prefix="mmtfrs-disk-") as name, started(Path(name)) as jobs:
        folder = Path(name).resolve()
        disk = (MountedDisk if _INSIDE in os.environ else LimitedFiles)(folder / "disk")
        chosen = given.commands.split(",")
        inputs = make_inputs((given.inputs or folder / "inputs").resolve(), jobs, [COMMANDS[name] for name in chosen])
        for command in chosen:
            filler, full = Filler(COMMANDS[command], disk, inputs, jobs), 0
            for point in range(given.points):
                size = filler.least + (filler.most - filler.least) * point // given.points
                wrong = filler.run(max(size, 1))
                full += wrong is not None
                bad += bool(wrong)
                for line in wrong or ():
                    print(f"{command}, {size} {disk.unit}: {line}", file=sys.stderr, flush=True)
            told = f"full at {full} of {given.points} points from {filler.least} to {filler.most} {disk.unit}"
            print(f"{command}: {told}, {bad} wrong so far", flush=True)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
