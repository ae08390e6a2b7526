"""A search folder: what is searched for, kept with its results, so that only the same search goes on in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmtfrs.config.config import Config
from mmtfrs.encoders.names import code_of
from mmtfrs.errors import TuningError, nearest
from mmtfrs.utils.extensions import check_trusted
from mmtfrs.utils.files import make_folder, write_json
from mmtfrs.utils.locks import held
from tuning.search_data import SearchData
from tuning.search_objective import Objective
from tuning.space import Space

METHODS = ("hyperband", "bayesian", "random")
_FILE = "search.json"


@contextlib.contextmanager
def searching_in(folder: Path) -> Iterator[None]:
    """A search folder that is written for the length of the block; made if missing.

    Raises:
        TuningError: another process searches in it.
        WriteError: it cannot be written.
    """
    make_folder(folder)
    busy = TuningError(f"{folder}: another process is searching in this folder. Wait for it, or give another --out.")
    with held(folder, busy):
        yield


def check(config: Config, modalities: tuple[str, ...], method: str, objective: str, trials: int) -> None:
    """Raises `TuningError` for a method, an objective or a space that cannot be, and for no trials."""
    if method not in METHODS:
        raise TuningError(f"--method must be one of {', '.join(METHODS)}. Received: {method}.{nearest(method, METHODS)}")
    if trials < 1:
        raise TuningError(f"--trials must be 1 or more. Received: {trials}.")
    Objective.named(objective, config)
    Space(config, modalities)


@dataclasses.dataclass(frozen=True)
class Job:
    """Attributes:

    config: the settings it starts from, with the space.
    modalities: that the data has.
    method: one of `METHODS`.
    objective: name of the metric.
    trials: how many at most.
    mark: tells the data from other data.
    items, events: how many the training part has.
    """

    config: Config
    modalities: tuple[str, ...]
    method: str
    objective: str
    trials: int
    mark: str
    items: int | None = None
    events: int | None = None

    @classmethod
    def of(cls, config: Config, data: SearchData, method: str, objective: str, trials: int) -> Job:
        """Raises `TuningError` for a log without validation part, and as `check` does."""
        if not len(data.split.validation):
            raise TuningError("a search chooses on the validation part, and this split has none. Set `data.validation_share`.")
        check(config, tuple(data.features.items), method, objective, trials)
        tables = data.tables(config)
        sizes = len(tables.item_ids), len(data.split.train)
        return cls(config, tables.modalities, method, objective, trials, data.mark(tables), *sizes)

    def space(self) -> Space:
        return Space(self.config, self.modalities, self.items, self.events)

    def goal(self) -> Objective:
        return Objective.named(self.objective, self.config)

    def check_trusted(self, folder: Path, trust_code: bool) -> None:
        """Raises `TuningError` where the search would import code, of a folder that somebody else may have made."""
        code, space = code_of(self.config), self.space()
        for name, part in space:
            for value in part.ends():
                code |= code_of(space.config({name: value}))
        check_trusted(folder, code, trust_code, TuningError)

    def oracle(self):
        from tuning.oracles import make_oracle  # loads KerasTuner, and with it TensorFlow

        return make_oracle(
            self.method, self.space(), self.goal(), self.trials, self.config.training.epochs, self.config.seed or 1
        )

    def claim_folder(self, folder: Path, data: SearchData) -> None:
        """Takes the folder, new or of the same search.

        Raises:
            TuningError: it holds a search of another space, other settings or other data, or something else.
            WriteError: it cannot be written.
        """
        make_folder(folder)
        if (folder / _FILE).exists():
            self._check_same(folder)
        elif any(path.name not in ("data", f"{_FILE}.part") for path in folder.iterdir()):
            raise TuningError(f"{folder}: the folder is not empty and holds no search. Give another --out.")
        data.save(folder / "data")  # again, too: search or store may have been moved
        write_json(folder / _FILE, self._document())

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of a search folder. Raises `TuningError` if there is none."""
        try:
            saved = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            return cls(
                Config(**saved["config"]),
                tuple(saved["modalities"]),
                saved["method"],
                saved["objective"],
                saved["trials"],
                saved["data"],
                saved.get("items"),
                saved.get("events"),
            )
        except (OSError, ValueError, KeyError) as error:
            raise TuningError(f"{folder}: not a search folder ({error}). Give the --out of a `tuning.search`.") from None

    def _document(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "objective": self.objective,
            "trials": self.trials,
            "data": self.mark,
            "items": self.items,
            "events": self.events,
            "modalities": list(self.modalities),
            "space": self.space().describe(),
            "config": self.config.model_dump(mode="json"),
        }

    def _check_same(self, folder: Path) -> None:
        there = Job.read(folder)
        lines = [
            f"{name}: {getattr(there, name)} -> {getattr(self, name)}"
            for name in ("method", "objective")
            if getattr(there, name) != getattr(self, name)
        ]
        ours, theirs = self.space().describe(), there.space().describe()
        lines += [
            f"space {name}: {theirs.get(name, 'not searched')} -> {ours.get(name, 'not searched')}"
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        ]
        lines += [line for line in there.config.differences(self.config) if not line.startswith("tuning.")]
        if there.mark != self.mark:
            lines.append("data: the items, features or events are not the same")
        if lines:
            raise TuningError(
                f"{folder}: holds another search. Give another --out. Differences (there -> now):\n  " + "\n  ".join(lines)
            )
