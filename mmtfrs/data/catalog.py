"""The catalog: every item that can be recommended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmtfrs.data.media_table import MediaTable
from mmtfrs.data.table_reader import as_strings
from mmtfrs.errors import DataError, nearest

_Name = TypeVar("_Name", bound=str)
TITLE = 80  # characters of a title, at most
_BLANKS = r"[\p{Z}\p{Cc}]+"  # line breaks and what else a terminal would act on


class Catalog(MediaTable):
    """Items: `item_id` (unique) and any of `text`, `image`, `audio`; other columns are kept.

    Example:
        >>> catalog = Catalog.from_dict({"item_id": ["a", "b"], "text": ["a red shoe", ""]})
        >>> len(catalog), catalog.modalities
        (2, ('text',))
    """

    id_column = "item_id"
    section = "items"

    def attributes(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns as `{name: [N] object}` strings, "" where empty. Raises `DataError` for one that is not there."""
        return {name: self._strings("attributes", name).to_numpy(zero_copy_only=False) for name in names}

    def titles(self, column: str | None = None, mapping: Mapping[_Name, str] | None = None) -> np.ndarray:
        """What a list of recommendations shows of each item.

        Args:
            column: its name in the items file; None takes the text.
            mapping: `{our name: the file's name}` of the columns that were renamed on reading.

        Returns:
            `[N] object` strings of at most 80 characters, with single blanks for any white space; "" where empty.

        Raises:
            DataError: there is no such column, or its values are no text.
        """
        names = self.table.column_names
        if column is None:
            if "text" not in names:
                return np.full(len(self), "", object)
            column = "text"
        elif column not in names:
            column = next((ours for ours, theirs in (mapping or {}).items() if theirs == column), column)
        # Of a whole book only the beginning is looked at.
        texts = pc.utf8_slice_codeunits(pc.utf8_ltrim_whitespace(self._strings("title", column)), 0, 20 * TITLE)
        cut = pc.utf8_slice_codeunits(pc.utf8_ltrim(pc.replace_substring_regex(texts, _BLANKS, " "), " "), 0, TITLE)
        return pc.utf8_rtrim(cut, " ").to_numpy(zero_copy_only=False)

    def _strings(self, setting: str, name: str) -> pa.Array:
        """A column that a setting names, as strings."""
        if name not in self.table.column_names:
            raise DataError(
                f"`data.{setting}` names the column `{name}`, which the items do not have."
                f"{nearest(name, self.table.column_names)} Columns: {', '.join(self.table.column_names)}."
            )
        try:
            return as_strings(self.table.column(name))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(
                f"`data.{setting}` names the column `{name}`, whose values are no text. "
                f"Received: {self.table.column(name).type}. Give it one value a row."
            ) from None
