"""What items and users have in common: a table of ids, each with a text, an image and audio, all optional."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtfrs.config.config import Config
from mmtfrs.config.schema import MODALITIES
from mmtfrs.data.problems import Problems
from mmtfrs.data.table_reader import as_strings, read_table
from mmtfrs.errors import DataError

VIDEO = "video"  # no modality of its own: frames for the image encoder, audio track for the audio encoder
_Table = TypeVar("_Table", bound="MediaTable")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class MediaTable:
    """Rows with a unique id and references to media.

    Attributes:
        table: the Arrow table; the id and the media columns are strings, "" for absent, others as they were.
        path: the file it came from (its folder is where relative media paths start), or None.
        problems: what was found while reading; warnings only, errors are raised.
    """

    id_column = ""
    section = ""

    def __init__(self, table: pa.Table, path: Path | None = None, problems: Problems | None = None) -> None:
        self.table = table
        self.path = path
        self.problems = problems if problems is not None else Problems()
        self._rows: dict[str, int] | None = None

    @classmethod
    def read(cls: type[_Table], path: str | Path, config: Config | None = None) -> _Table:
        """Reads and validates a file.

        Raises:
            DataError: with every problem of the file, each with its rows and remedy.
        """
        table, problems = cls.scan(path, config)
        problems.raise_errors()
        return table

    @classmethod
    def scan(cls: type[_Table], path: str | Path, config: Config | None = None) -> tuple[_Table, Problems]:
        """As `read`, but returns `(table, problems)` and raises nothing: what `mmtfrs check` uses."""
        config = config or Config()
        problems = Problems()
        path = Path(path)
        mapping = getattr(config.data.columns, cls.section)
        table, first = read_table(path, (cls.id_column,), mapping, problems)
        for name in (cls.id_column, *MODALITIES, VIDEO):
            if name in table.column_names:
                index = table.column_names.index(name)
                table = table.set_column(index, name, as_strings(table.column(name)))
        _check_ids(path, table.column(cls.id_column), cls.id_column, first, problems)
        return cls(table, path, problems), problems

    @classmethod
    def from_dict(cls: type[_Table], columns: dict, folder: str | Path = ".") -> _Table:
        """Builds a table in memory from `{column: list}`; relative media paths start at `folder`."""
        if cls.id_column not in columns:
            raise DataError(f"`columns` needs `{cls.id_column}`. Received: {', '.join(columns)}.")
        table = pa.table({name: as_strings(pa.array(values)) for name, values in columns.items()})
        problems = Problems()
        _check_ids("the given columns", table.column(cls.id_column), cls.id_column, 1, problems)
        problems.raise_errors()
        return cls(table, Path(folder) / "-", problems)

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        media = ", ".join(f"{self.count(modality)} with {modality}" for modality in self.modalities)
        return f"{type(self).__name__}({len(self)} rows{': ' + media if media else ''})"

    @property
    def ids(self) -> np.ndarray:
        """`[N]` object array of str."""
        return self.table.column(self.id_column).to_numpy()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of which at least one row has a medium, and `video` if there are any."""
        return tuple(modality for modality in (*MODALITIES, VIDEO) if self.count(modality))

    def count(self, modality: str) -> int:
        """How many rows carry a medium of this modality."""
        if modality not in self.table.column_names:
            return 0
        return pc.sum(pc.not_equal(self.table.column(modality), "")).as_py() or 0

    def medium(self, row: int, modality: str) -> str:
        """The text, or the full path of the image or audio, of one row; "" where absent."""
        return self.media(row, row + 1, modality)[0]

    def media(self, start: int, stop: int, modality: str) -> list[str]:
        """As `medium`, for the rows from `start` up to, not including, `stop`."""
        if modality not in self.table.column_names:
            return [""] * (min(stop, len(self)) - start)
        values = self.table.column(modality).slice(start, stop - start).to_pylist()
        if modality == "text":
            return values
        folder = str(self.folder)
        return [value and os.path.join(folder, value) for value in values]

    @property
    def folder(self) -> Path:
        """Where relative media paths start."""
        if self.path is None:
            return Path(".")
        return self.path if self.path.is_dir() else self.path.parent

    def rows_of(self, ids: Collection[str]) -> np.ndarray:
        """`[n] int64` row of each id, -1 where it is not in the table."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.ids)}
        return np.fromiter((self._rows.get(name, -1) for name in ids), np.int64, len(ids))


def _check_ids(path: str | Path, column: pa.ChunkedArray, name: str, first: int, problems: Problems) -> None:
    empty, control, seen, repeated = [], [], set(), []
    for row, value in enumerate(column.to_pylist(), start=first):
        if not value.strip():
            empty.append(row)
        elif value in seen:
            repeated.append(row)
        elif _CONTROL.search(value):
            control.append(row)
        seen.add(value)
    if empty:
        problems.error(path, empty, f"`{name}` is empty.", "Give every row an id.")
    if repeated:
        problems.error(path, repeated, f"`{name}` was already used by an earlier row.", "Ids must be unique.")
    if control:
        problems.error(path, control, f"`{name}` has a control character.", "Remove it.")
