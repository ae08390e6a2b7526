"""What a log says of its items and users, as arrays by row."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from mmtfrs.data.events import Events
from mmtfrs.data.id_column import IdColumn
from mmtfrs.errors import DataError
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.model_inputs.popularity import best_fade, faded_counts


class LogFacts(TypedDict):
    """Of `ModelInputs`, which says what each is."""

    item_counts: np.ndarray
    user_counts: np.ndarray
    faded: np.ndarray
    fade: float
    seen: ItemLists
    ratings: tuple[float, float]


def log_facts(item_rows: dict[str, int], user_rows: dict[str, int], events: Events, fade: float | None) -> LogFacts:
    """What a log says of its items and users; None for the half-life that its newest events choose. Raises `DataError` where no
    event is on an item of the catalog."""
    rows, users = events.items.looked_up(item_rows), events.users.looked_up(user_rows)
    there, size = rows > 0, len(item_rows) + 1
    if not there.any():
        raise DataError("no training event is on an item of the catalog. Check the item ids of both files.")
    items, timestamps = rows[there], events.timestamps[there]
    fade = best_fade(items, timestamps, size) if fade is None else fade
    ratings = events.ratings
    return {
        "item_counts": np.bincount(items, minlength=size).astype(np.float32),
        "user_counts": np.bincount(users, minlength=len(user_rows) + 1).astype(np.float32),
        "faded": faded_counts(items, timestamps, size, fade).astype(np.float32),
        "fade": fade,
        "seen": ItemLists.of_log(users, rows, events.timestamps, len(user_rows)),
        "ratings": (np.nan, np.nan) if ratings is None else (float(np.mean(ratings)), float(np.std(ratings))),
    }


def lookup(ids: np.ndarray) -> dict[str, int]:
    """`{id: row}`, from 1 on."""
    return {each: row for row, each in enumerate(ids, start=1)}


def sorted_ids(*ids: IdColumn | np.ndarray) -> np.ndarray:
    """`[n] object`: each that is anywhere, once."""
    there = {name for each in ids for name in (each.names[each.used()] if isinstance(each, IdColumn) else each)}
    return np.array(sorted(there), dtype=object)
