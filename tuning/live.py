"""What a running search shows: a live table on a terminal, a line per finished trial elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tuning.trials import Row, Trials, short


class View:
    """Call it as often as is convenient; it looks once a second.

    Args:
        total: trials that the search may run.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._told: set[str] = set()
        self._looked = 0.0
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, trials: Trials, now: bool = False) -> None:
        if not now and time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        if self._live is not None:
            self._live.update(table(trials, self.total), refresh=True)
            return
        for row in trials.rows():
            if row.status != "running" and row.id not in self._told:
                self._told.add(row.id)
                best = trials.leaders()
                print(f"trial {row.id}  {_score(row)}  {_story(row)}, best {_score(best[0]) if best else '-'}", file=sys.stderr)


def table(trials: Trials, total: int, most: int = 10) -> Table:
    """The running trials and the best of the finished ones."""
    rows, leaders = trials.rows(), trials.leaders()
    failed = sum(row.status == "failed" for row in rows)
    made = Table(
        title=f"{len(leaders)} of {total} trials completed, {failed} failed, {trials.spent() / 60:.0f} minutes of training"
    )
    for heading in ("trial", trials.objective.name, "", "differs from the first trial in"):
        made.add_column(heading, overflow="fold")
    first = rows[0].values if rows else {}
    for row in [*(row for row in rows if row.status == "running"), *leaders[:most]]:
        other = ", ".join(
            f"{name.split('.')[-1]} {short(value)}" for name, value in row.values.items() if value != first.get(name)
        )
        made.add_row(row.id, _score(row), _story(row), other)
    return made


def _score(row: Row) -> str:
    return "-" if row.score is None else f"{row.score:.4f}"


def _story(row: Row) -> str:
    if row.status == "failed":
        return f"failed: {row.note}"
    return f"{row.status} at epoch {row.epochs}, {row.seconds:.0f} s{', ' + row.note if row.note else ''}"
