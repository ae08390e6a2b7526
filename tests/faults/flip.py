"""One flipped bit in each file of a feature store, a run and an export: told or repaired, never another result with exit code 0.

    python -m tests.faults.flip [store run export] [--positions 200] [--seed 0]

A copy of the folder gets one bit flipped, and what reads it runs: `extract` and the features of a store, whose digits may differ
from the seventh on where a medium was encoded again in a batch of another size; `evaluate` and `export` of a run; `recommend`,
`refresh` and the development server of an export. Told is exit code 1 with one line, and no version that a server would answer by.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults.commands import COMMANDS, make_inputs
from tests.faults.outcome import found
from tests.processes import Jobs, started

_CLOSE = 1e-5  # of features that were made again


def flip(path: Path, bit: int) -> None:
    """Changes one bit of a file in its place."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


class Reader:
    """What reads a folder.

    Args:
        name: of the outcomes that are printed.
        target: as of a job, and its arguments, by the folder of the inputs and that of the copy.
        same: whether what it printed is what it printed of the folder as it was.
        result: what else came out of it, by the same folders and `Jobs`; nothing if None.
    """

    def __init__(
        self,
        name: str,
        target: str | Callable,
        arguments: Callable[[Path, Path], list],
        result: str = "",
        same: Callable[[str, str], bool] = str.__eq__,
    ) -> None:
        self.name, self._target, self._arguments, self._result, self._same = name, target, arguments, result, same
        self._expected = ""

    def expect(self, inputs: Path, folder: Path, jobs: Jobs) -> None:
        code, self._expected, error = self._run(inputs, folder, jobs)
        assert code == 0, error

    def outcome(self, inputs: Path, folder: Path, jobs: Jobs) -> str:
        """`told`, `the same`, or what is wrong."""
        code, printed, error = self._run(inputs, folder, jobs)
        if code == 0:
            return "the same" if self._same(printed, self._expected) else "WRONG: another result with exit code 0"
        lines = [line for line in error.splitlines() if line.startswith("error:")]
        if code != 1 or len(lines) != 1 or "Traceback" in error:
            return f"WRONG: exit code {code}: {error[-1500:]}"
        return "told"

    def _run(self, inputs: Path, folder: Path, jobs: Jobs) -> tuple[int, str, str]:
        job = jobs(self._target, *self._arguments(inputs, folder))
        code, printed = job.wait(), job.stdout
        if code == 0 and self._result:
            printed = json.dumps(found(COMMANDS[self._result], inputs, folder, jobs), sort_keys=True)
        return code, printed, job.stderr


def print_features(inputs: str, folder: str) -> None:
    """Features of all media, as `extract` gives them."""
    import mmtfrs
    from mmtfrs.errors import Error

    place = Path(inputs)
    try:
        features = mmtfrs.extract(
            mmtfrs.Catalog.read(place / "items.csv"),
            mmtfrs.Config.read(place / "config.yaml"),
            f"{folder}/store",
            mmtfrs.Users.read(place / "users.csv"),
            progress=False,
        )
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sides = {"items": features.items, "users": features.users}
    print(json.dumps({f"{side} {name}": rows[:].tolist() for side, each in sides.items() for name, rows in each.items()}))


def _close(printed: str, expected: str) -> bool:
    here, there = json.loads(printed), json.loads(expected)
    return here.keys() == there.keys() and all(np.allclose(here[name], there[name], atol=_CLOSE, rtol=0) for name in there)


def serve(folder: str) -> None:
    """Loads a folder of versions as the development server does."""
    from serving.served_model import ServedModel

    model = ServedModel("shop", folder)
    model.refresh()
    if model.current is None:
        print("error: no version answers", file=sys.stderr)
        sys.exit(1)
    print("answers")


def _recommend(_: Path, folder: Path) -> list[str]:
    return ["recommend", f"{folder}/shop", "--user", "user-0001", "--json"]


_APP = "mmtfrs.cli.app"
_FOLDERS = {"store": "store", "run": "run", "export": "shop"}  # what is flipped, as `make_inputs` calls it
_NEEDS = {"store": ("store",), "run": ("run",), "export": ("shop", "store")}


def _readers(what: str) -> list[Reader]:
    if what == "store":
        return [Reader("extract", print_features, lambda inputs, folder: [str(inputs), str(folder)], same=_close)]
    if what == "run":
        evaluation = lambda _, folder: ["evaluate", f"{folder}/run", "--baselines", "none"]
        return [
            Reader("evaluate", _APP, evaluation, "evaluate"),
            Reader("export", _APP, COMMANDS["export"].arguments, "export"),
        ]
    return [
        Reader("recommend", _APP, _recommend),
        Reader("server", serve, lambda _, folder: [f"{folder}/shop"]),
        Reader("refresh", _APP, COMMANDS["refresh"].arguments, "refresh"),
    ]


def positions(folder: Path, count: int, draw: random.Random) -> list[tuple[Path, int]]:
    """Files of a folder and bits of them: each file once, and again in turn."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    draw.shuffle(files)
    return [(each, draw.randrange(8 * (folder / each).stat().st_size)) for each in (files * count)[:count]]


def try_positions(what: str, count: int, seed: int, inputs: Path, place: Path, jobs: Jobs) -> list[str]:
    """Flips so many bits; prints a line for each that is wrong, and one of the sums. Returns those lines."""
    readers, outcomes, wrong = _readers(what), Counter(), []

    def fresh() -> Path:
        folder = Path(tempfile.mkdtemp(dir=place))
        for needed in _NEEDS[what]:
            shutil.copytree(inputs / needed, folder / needed)
        return folder

    for reader in readers:
        reader.expect(inputs, fresh(), jobs)
    for path, bit in positions(inputs / _FOLDERS[what], count, random.Random(f"{seed} {what}")):
        for reader in readers:
            folder = fresh()
            flip(folder / _FOLDERS[what] / path, bit)
            outcome = reader.outcome(inputs, folder, jobs)
            outcomes[f"{reader.name}: {outcome.partition(':')[0]}"] += 1
            if outcome.startswith("WRONG"):
                wrong.append(f"{what}/{path}, bit {bit}: {reader.name}: {outcome}")
                print(wrong[-1], file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    print(f"{what}: {count} bits; " + ", ".join(f"{name} {number}" for name, number in sorted(outcomes.items())), flush=True)
    return wrong


def main() -> int:
    """1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=[*_FOLDERS], help="of store, run and export; all if none is named")
    parser.add_argument("--positions", type=int, default=200, help="in all; each file of a folder has at least one")
    parser.add_argument("--seed", type=int, default=0, help="of the positions")
    parser.add_argument("--inputs", type=Path, help="where inputs are, or are made")
    given = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory(prefix="mmtfrs-flip-") as name, started(Path(name)) as jobs:
        commands = COMMANDS.values() if {"run", "export"} & {*given.folders} else [COMMANDS["train"]]
        inputs = make_inputs((given.inputs or Path(name, "inputs")).resolve(), jobs, commands)
        files = {what: sum(path.is_file() for path in (inputs / _FOLDERS[what]).rglob("*")) for what in given.folders}
        for what, count in files.items():
            share = max(count, round(given.positions * count / sum(files.values())))
            wrong += try_positions(what, share, given.seed, inputs, Path(name), jobs)
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
