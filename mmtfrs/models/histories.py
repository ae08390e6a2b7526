"""Rows for training and asking: who, what, and what they had taken before."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from mmtfrs.data.events import Events
from mmtfrs.data.id_column import IdColumn
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.item_lists import ItemLists


class Histories:
    """Every user's items in the order of time.

    Args:
        tables: rows of ids.
        events: the log to take histories from; events on unknown items are left out.

    Attributes:
        lists: of the users who took anything: those of the tables, in their order, then others.
        kept: `[E]`, position in the log of each of the items.
    """

    def __init__(self, tables: ModelInputs, events: Events) -> None:
        items = tables.item_rows(events.items)
        kept = np.flatnonzero(items > 0)
        rows = tables.user_rows(events.users.names)
        others = np.flatnonzero(rows == 0)
        rows[others] = len(tables.user_ids) + 1 + np.arange(len(others))
        users = rows[events.users.codes[kept]]
        order = np.lexsort((events.timestamps[kept], users))
        self.kept = kept[order]
        users = users[order]
        first = np.append(np.flatnonzero(np.diff(users, prepend=-1)), len(users))
        self.lists = ItemLists(items[self.kept], first)
        self._of = events.users.names, rows, users[first[:-1]]

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """The place of each user in `lists`, from 1."""
        names, rows, users = self._of
        places = np.searchsorted(users, rows)
        there = np.append(users, -1)[places] == rows
        return dict(zip(names[there], (places[there] + 1).tolist(), strict=True))

    def pasts(self, user_ids: IdColumn | Iterable[str]) -> ItemLists:
        """All items of each user, oldest first; none of an unknown one."""
        places = IdColumn.of(user_ids).looked_up(self._places)
        return ItemLists(self.lists.items, np.append(0, self.lists.starts)).take(places)
