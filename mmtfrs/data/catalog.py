"""The catalogue: every item that can be recommended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmtfrs.data.media_table import MediaTable
from mmtfrs.data.tables import as_strings
from mmtfrs.errors import DataError, nearest


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
        columns = {}
        for name in names:
            if name not in self.table.column_names:
                raise DataError(
                    f"`data.attributes` names the column `{name}`, which the items do not have."
                    f"{nearest(name, self.table.column_names)} Columns: {', '.join(self.table.column_names)}."
                )
            columns[name] = as_strings(self.table.column(name)).to_numpy(zero_copy_only=False)
        return columns
