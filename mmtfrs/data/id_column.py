"""Ids of events as integers: each different id is looked at once, however many events it has."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from mmtfrs.data.table_reader import as_strings
from mmtfrs.errors import DataError


@dataclasses.dataclass(frozen=True)
class IdColumn:
    """A dictionary-encoded column.

    Attributes:
        names: `[U] object` of str, all different; some may be of no row.
        codes: `[n] int32`, which of them each row has.
    """

    names: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, ids: IdColumn | pa.ChunkedArray | Iterable[str]) -> IdColumn:
        """Of ids of any kind; what is absent is the empty string."""
        if isinstance(ids, IdColumn):
            return ids
        if isinstance(ids, pa.ChunkedArray) and pa.types.is_dictionary(ids.type) and not ids.null_count:
            encoded = ids.unify_dictionaries().combine_chunks()
            names = as_strings(encoded.dictionary)
            if len(names.unique()) == len(names):
                return cls(names.to_numpy(zero_copy_only=False), encoded.indices.to_numpy().astype(np.int32, copy=False))
        if not isinstance(ids, pa.ChunkedArray):
            values = ids if isinstance(ids, np.ndarray) else list(ids)
            try:
                ids = pa.array(values, from_pandas=True) if len(values) else pa.array([], pa.string())
            except pa.ArrowException as error:
                raise DataError(f"ids must be of one type, text or whole numbers ({error}).") from None
        encoded = as_strings(ids).dictionary_encode()
        return cls(encoded.dictionary.to_numpy(zero_copy_only=False), encoded.indices.to_numpy())

    def __len__(self) -> int:
        return len(self.codes)

    @functools.cached_property
    def values(self) -> np.ndarray:
        """`[n] object` of str."""
        return self.names[self.codes]

    def take(self, rows: np.ndarray) -> IdColumn:
        """The ids at these positions, in this order."""
        return IdColumn(self.names, self.codes[rows])

    def used(self) -> np.ndarray:
        """`[u]`, sorted: codes that some row has."""
        return np.flatnonzero(np.bincount(self.codes, minlength=len(self.names)))

    def in_order(self) -> IdColumn:
        """The same with the names that some row has, in the order in which they come first."""
        first, place = np.zeros(len(self.names), np.int64), np.zeros(len(self.names), np.int32)
        first[self.codes[::-1]] = np.arange(len(self))[::-1]
        used = self.used()
        order = used[np.argsort(first[used])]
        place[order] = np.arange(len(order))
        return IdColumn(self.names[order], place[self.codes])

    def looked_up(self, rows: Mapping[str, int]) -> np.ndarray:
        """`[n] int32`: the row of each, 0 for those that are not there."""
        found = np.fromiter((rows.get(name, 0) for name in self.names), np.int32, len(self.names))
        return found[self.codes]

    def codes_in(self, other: IdColumn) -> np.ndarray:
        """`[n] int32`: the code that each has in another column, -1 for those that no row of it has."""
        mine = self.codes
        if other.names is not self.names:
            mine = self.looked_up({name: code for code, name in enumerate(other.names, start=1)}) - 1
        there = np.zeros(len(other.names) + 1, bool)
        there[other.used()] = True
        return np.where(there[mine], mine, -1).astype(np.int32)
