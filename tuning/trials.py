"""The trials of a search as their folders tell of them."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

from tuning.process import read_json, read_result
from tuning.search_objective import Objective
from tuning.surroundings import is_marked


@dataclasses.dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        id: its name.
        status: `running`, `completed` or `failed`.
        values: settings by their names.
        score: the objective; None unless completed.
        metrics: of the validation part.
        curve: the logs of each epoch.
        seconds: of training.
        note: why it failed, or `pruned` where the rest of its epochs were saved.
        again: it failed for what is around it, and is tried again when the search goes on.
    """

    id: str
    status: str
    values: dict[str, Any]
    score: float | None
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    seconds: float
    note: str = ""
    again: bool = False

    @property
    def epochs(self) -> int:
        """The last epoch; the curve of a trial that continues another begins later than with the first."""
        return int(self.curve[-1]["epoch"]) if self.curve else 0


def read_lines(path: Path) -> list[dict]:
    """The whole lines of a file of JSON lines; one that was cut off by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


def short(value: Any) -> str:
    """A setting's value in few letters."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Trials:
    """Reads `FOLDER/trials/trial_*`.

    Args:
        folder: of the search.
        objective: what is looked for.
    """

    def __init__(self, folder: Path, objective: Objective) -> None:
        self.folder = folder / "trials"
        self.objective = objective
        self._ended: dict[str, Row] = {}  # these do not change any more

    def rows(self) -> list[Row]:
        """All trials that were begun, in their order."""
        found = []
        for path in self.folder.glob("trial_*/spec.json"):
            name = path.parent.name.removeprefix("trial_")
            row = self._ended.get(name) or self._read(name, path.parent)
            if row.status != "running":
                self._ended[name] = row
            found.append(row)
        return sorted(found, key=lambda row: (not row.id.isdigit(), int(row.id) if row.id.isdigit() else 0, row.id))

    def leaders(self) -> list[Row]:
        """Completed trials, best first."""
        completed = [row for row in self.rows() if row.score is not None]
        return sorted(completed, key=lambda row: row.score, reverse=self.objective.direction == "max")

    def spent(self) -> float:
        """Seconds of all trials together."""
        return sum(row.seconds for row in self.rows())

    def bar(self, grace: int) -> list[float | None]:
        """Per epoch, the median of the best values that completed trials had reached by then; none for the first epochs, and
        nothing before there are enough trials."""
        curves = []
        for row in self.rows():
            values = [logs.get(f"val_{self.objective.name}") for logs in row.curve]
            if row.status == "completed" and values and None not in values:
                curves.append(values)
        if len(curves) < grace:
            return []
        longest = max(map(len, curves))
        reached = [statistics.median(max(values[: epoch + 1]) for values in curves) for epoch in range(longest)]
        return [None] * grace + reached[grace:]

    def _read(self, name: str, folder: Path) -> Row:
        spec = read_json(folder / "spec.json")
        curve = read_lines(folder / "history.jsonl")
        seconds = curve[-1]["time"] if curve else 0.0
        result = read_result(folder)
        if result is not None:
            score = result["metrics"].get(self.objective.name)
            if score is None or not math.isfinite(score):
                note = f"the trial has no finite {self.objective.name}: {score}"
                return Row(name, "failed", spec["values"], None, {}, curve, seconds, note)
            note = "pruned" if result["pruned"] else ""
            return Row(name, "completed", spec["values"], score, result["metrics"], curve, seconds, note)
        state = folder / "trial.json"
        known = read_json(state) if state.exists() else {}
        if known.get("status") == "FAILED":
            note = " ".join((known.get("message") or "").split())
            return Row(name, "failed", spec["values"], None, {}, curve, seconds, note, is_marked(folder))
        return Row(name, "running", spec["values"], None, {}, curve, seconds)
