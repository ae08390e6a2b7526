"""The log: who took which item, and when."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pydantic
from numpy.typing import ArrayLike

from mmtfrs.config.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.id_column import IdColumn
from mmtfrs.data.problems import Problems
from mmtfrs.data.splits import Split, split_events
from mmtfrs.data.table_reader import as_strings, read_table
from mmtfrs.errors import DataError
from mmtfrs.utils.finite import LARGEST, bad_rows

_MOMENT = pydantic.TypeAdapter(datetime)
_COLUMNS = ("user_id", "item_id", "timestamp")
_MILLISECONDS = 10**11  # as seconds this is the year 5138; as milliseconds, 1973


class Events:
    """Events in the order of the log.

    Attributes:
        users, items: `[n]` ids, each different one looked at once.
        timestamps: `[n] int64`, seconds.
        weights: `[n] float32`, 1 where the log has none.
        ratings: `[n] float32` or None.
        known: for the validation and test part of a split, the events that came before (what the query knows and
            what is left out of the answers); else None.
        problems: warnings found while reading.

    Example:
        >>> events = Events(["u", "u", "v"], ["a", "b", "a"], [10, 20, 30])
        >>> len(events), events.take([2]).item_ids.tolist()
        (3, ['a'])
    """

    def __init__(
        self,
        user_ids: IdColumn | Iterable[str],
        item_ids: IdColumn | Iterable[str],
        timestamps: ArrayLike,
        weights: ArrayLike | None = None,
        ratings: ArrayLike | None = None,
        known: Events | None = None,
    ) -> None:
        self.users, self.items = IdColumn.of(user_ids), IdColumn.of(item_ids)
        self.timestamps = np.asarray(timestamps, dtype=np.int64)
        if not len(self.users) == len(self.items) == len(self.timestamps):
            raise DataError(
                "`user_ids`, `item_ids` and `timestamps` must be of one length. Received: "
                f"{len(self.users)}, {len(self.items)}, {len(self.timestamps)}."
            )
        self.weights = np.ones(len(self), np.float32) if weights is None else np.asarray(weights, np.float32)
        self.ratings = None if ratings is None else np.asarray(ratings, np.float32)
        for name, values in (("weights", self.weights), ("ratings", self.ratings)):
            if values is not None and len(bad := bad_rows(values[:, None])):
                raise DataError(
                    f"`{name}` must be finite numbers, {LARGEST:g} at most. Received: {values[bad[0]]} at position {bad[0]}."
                )
        self.known = known
        self.problems = Problems()

    @classmethod
    def read(cls, path: str | Path, config: Config | None = None, catalog: Catalog | None = None) -> Events:
        """Reads and validates a log; with a catalog, events on unknown items are set aside and reported.

        Raises:
            DataError: with every problem of the file, each with its rows and remedy.
        """
        events, problems = cls.scan(path, config, catalog)
        problems.raise_errors()
        return events

    @classmethod
    def scan(cls, path: str | Path, config: Config | None = None, catalog: Catalog | None = None) -> tuple[Events, Problems]:
        """As `read`, but returns `(events, problems)` and raises nothing: what `mmtfrs check` uses."""
        config = config or Config()
        problems = Problems()
        path = Path(path)
        table, first = read_table(path, _COLUMNS, config.data.columns.events, problems, ("weight", "rating"))
        users, items = (IdColumn.of(table.column(name)) for name in _COLUMNS[:2])
        for name, ids in (("user_id", users), ("item_id", items)):
            empty = np.flatnonzero(np.array([not value.strip() for value in ids.names], bool)[ids.codes])
            if len(empty):
                problems.error(path, empty + first, f"`{name}` is empty.", "Give every event one.")
        timestamps = _timestamps(path, table.column("timestamp"), first, problems)
        weights = _numbers(path, table, "weight", first, problems)
        if weights is not None and (weights < 0).any():
            problems.error(path, np.flatnonzero(weights < 0) + first, "`weight` is negative.", "Weights are 0 or more.")
        elif weights is not None and len(weights) and not weights.any():
            problems.error(path, (), "every `weight` is 0 or none.", "Give events that count one above 0, or drop the column.")
        ratings = _numbers(path, table, "rating", first, problems)
        events = cls(users, items, timestamps, weights, ratings)
        if catalog is not None and len(events):
            unknown = (catalog.rows_of(items.names) < 0)[items.codes]
            if unknown.any():
                strange = sorted(items.names[items.take(unknown).used()])
                problems.warning(
                    path,
                    np.flatnonzero(unknown) + first,
                    f"the event is on an item that the catalog does not have ({', '.join(strange[:3])}"
                    f"{', ...' if len(strange) > 3 else ''}).",
                    "Set aside; add the items to the catalog to use it.",
                )
                events = events.take(np.flatnonzero(~unknown))
                if not len(events):
                    problems.error(path, (), "no event is on an item of the catalog.", "Check the item ids.")
        events.problems = problems
        return events, problems

    @property
    def user_ids(self) -> np.ndarray:
        """`[n] object` of str."""
        return self.users.values

    @property
    def item_ids(self) -> np.ndarray:
        """`[n] object` of str."""
        return self.items.values

    @property
    def earlier(self) -> Events:
        """`known`, or no events where that is None."""
        return self.known if self.known is not None else self.take(np.array([], np.int64))

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Events({len(self)} events, {len(self.users.used())} users, {len(self.items.used())} items)"

    def take(self, rows: np.ndarray, known: Events | None = None) -> Events:
        """The events at these positions, in this order."""
        ratings = None if self.ratings is None else self.ratings[rows]
        return Events(self.users.take(rows), self.items.take(rows), self.timestamps[rows], self.weights[rows], ratings, known)

    def split(self, kind: str = "time", validation_share: float = 0.1, test_share: float = 0.1, seed: int = 42) -> Split:
        """Cuts the log into `.train`, `.validation` and `.test`; see `mmtfrs.data.splits`."""
        return split_events(self, kind, validation_share, test_share, seed)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _seconds(text: str) -> float:
    """Seconds since 1970 of a number, or of an ISO 8601 date; one without a zone is UTC. NaN for anything else."""
    value = _float(text)
    if math.isnan(value):
        with contextlib.suppress(pydantic.ValidationError):
            moment = _MOMENT.validate_python(text.strip())  # datetime's own parser knows little of ISO 8601 before Python 3.11
            value = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    return value


def _timestamps(path: Path, column: pa.ChunkedArray, first: int, problems: Problems) -> np.ndarray:
    """Whole seconds; every value that is no plausible number of seconds is reported."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("s"), safe=False).to_numpy().astype("datetime64[s]").astype(np.int64)
    if pa.types.is_integer(column.type) and column.null_count == 0:
        values, bad = column.to_numpy().astype(np.int64), np.zeros(len(column), bool)
    else:
        values, bad = _floats(as_strings(column), _seconds)
        values = np.where(bad, 0, np.clip(values, -(2.0**62), 2.0**62)).astype(np.int64)
    if bad.any():
        problems.error(
            path,
            np.flatnonzero(bad) + first,
            "`timestamp` is neither a number nor a date.",
            "Write seconds since 1970, or ISO 8601 as 2026-01-31T12:00:00+02:00.",
        )
    if (values < 0).any():
        problems.error(path, np.flatnonzero(values < 0) + first, "`timestamp` is negative.", "Write seconds since 1970.")
    if (values >= _MILLISECONDS).any():
        problems.error(
            path,
            np.flatnonzero(values >= _MILLISECONDS) + first,
            "`timestamp` looks like milliseconds.",
            "Divide by 1000: seconds are expected.",
        )
    return values


def _numbers(path: Path, table: pa.Table, name: str, first: int, problems: Problems) -> np.ndarray | None:
    if name not in table.column_names:
        return None
    values, bad = _floats(as_strings(table.column(name)))
    if bad.any():
        problems.error(path, np.flatnonzero(bad) + first, f"`{name}` is not a number.", "Write one, or drop the column.")
    if len(large := bad_rows(values[:, None])):
        problems.error(path, large + first, f"`{name}` is beyond {LARGEST:g}.", "Scale the column: 1 is usual.")
    return np.where(np.abs(values) <= LARGEST, values, 0.0).astype(np.float32)


def _floats(column: pa.Array, parse: Callable[[str], float] = _float) -> tuple[np.ndarray, np.ndarray]:
    """`(values [n] float64, bad [n] bool)`; the fast path parses the whole column at once."""
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        values = np.array([parse(text) for text in column.to_pylist()])
    bad = ~np.isfinite(values)
    return np.where(bad, 0.0, values), bad
