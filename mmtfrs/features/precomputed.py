"""Features that people bring themselves, under any modality name: a `.npy` file, one row per item."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmtfrs.data.catalog import Catalog
from mmtfrs.encoders.base import fingerprint
from mmtfrs.errors import DataError, first_line
from mmtfrs.features.features import FeatureRows
from mmtfrs.utils.finite import LARGEST, bad_rows


def load_own(modality: str, path: str | Path, catalog: Catalog) -> FeatureRows:
    """Maps a `.npy` matrix into memory.

    Args:
        modality: its name, for messages.
        path: `[N, dim]` floating, in the order of the catalog; or in the order of the ids in a text file beside it,
            `NAME.ids.txt`, one per line. Items that it does not list have no such features.
        catalog: the items.

    Raises:
        DataError: the file cannot be read, or its shape, type, length, values or ids are wrong.
    """
    path = Path(path)
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever is wrong with it
        raise DataError(f"{path}: the {modality} features cannot be read as .npy ({first_line(error)}).") from None
    if matrix.ndim != 2 or not matrix.shape[1] or matrix.dtype.kind != "f":
        raise DataError(
            f"{path}: the {modality} features must be a [N, dim] matrix of floating numbers. "
            f"Received: {matrix.dtype} {list(matrix.shape)}."
        )
    listed = path.with_suffix(".ids.txt")
    rows = np.arange(len(matrix)) if not listed.exists() else _rows(listed, catalog, len(matrix))
    if len(rows) != len(catalog):
        raise DataError(
            f"{path}: must have one row of {modality} per item. Received: {len(matrix)} rows, {len(catalog)} items. "
            f"List the ids of its rows in {listed.name}, or bring the missing ones."
        )
    if len(bad := bad_rows(matrix)):
        raise DataError(
            f"{path}: the {modality} features must be finite numbers, {LARGEST:g} at most. Received: others in {len(bad)} "
            f"rows, the first is row {bad[0]}. Leave items without features out, and list the others in {listed.name}."
        )
    return FeatureRows(matrix, rows, "own/" + fingerprint(modality, np.asarray(matrix)))


def _rows(path: Path, catalog: Catalog, count: int) -> np.ndarray:
    """`[N]`: the matrix row of each item of the catalog, -1 where it is not listed."""
    try:
        ids = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the ids cannot be read ({error}).") from None
    if len(ids) != count or len(set(ids)) != count:
        raise DataError(
            f"{path}: must list each row's item once. Received: {len(ids)} ids, {len(set(ids))} different, {count} rows."
        )
    rows = np.full(len(catalog), -1, np.int64)
    places = catalog.rows_of(ids)
    if (places < 0).all():
        raise DataError(f"{path}: no id is in the catalog. Check the ids of both files.")
    known = places >= 0
    rows[places[known]] = np.flatnonzero(known)
    return rows
