"""What is wrong with a file: which rows, by which rule, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mmtfrs.errors import DataError


@dataclasses.dataclass(frozen=True)
class Problem:
    """One rule that some rows of one file break.

    Attributes:
        file: the file, as the user named it.
        rows: 1-based rows as an editor or spreadsheet counts them (a CSV's header is row 1); empty: the whole file.
        rule: what is wrong.
        remedy: what to do.
        severity: `error` stops a job; `warning` sets the rows (or the medium) aside and goes on.
    """

    file: str
    rows: tuple[int, ...]
    rule: str
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        shown = ", ".join(str(row) for row in self.rows[:5])
        more = f" and {len(self.rows) - 5} more" if len(self.rows) > 5 else ""
        where = f", row{'s' if len(self.rows) > 1 else ''} {shown}{more}" if self.rows else ""
        return f"{self.severity}: {self.file}{where}: {self.rule} {self.remedy}"

    def as_dict(self) -> dict:
        """For JSON, with every row."""
        return {**dataclasses.asdict(self), "rows": list(self.rows)}


class Problems(list[Problem]):
    """A growing list of problems that can turn itself into one `DataError`."""

    def error(self, file: str | Path, rows: Iterable[int], rule: str, remedy: str) -> None:
        self.append(Problem(str(file), tuple(int(row) for row in rows), rule, remedy))

    def warning(self, file: str | Path, rows: Iterable[int], rule: str, remedy: str) -> None:
        self.append(Problem(str(file), tuple(int(row) for row in rows), rule, remedy, "warning"))

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self if problem.severity == "error"]

    def raise_errors(self) -> None:
        """Raises one `DataError` that lists every problem of severity `error`, if there is any."""
        if self.errors:
            raise DataError("\n".join(str(problem) for problem in self.errors))
