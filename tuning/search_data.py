"""The data of a search, prepared once: features stay where they are, memory-mapped, and every trial reads the same pages."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np

from mmtfrs.config.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.splits import Split
from mmtfrs.features.features import FeatureRows, Features
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.run_folder import data_mark, read_split, write_split
from mmtfrs.utils.files import make_folder, save_array, write_json
from tuning.surroundings import Surroundings

_ROWS = 4096  # that are looked at in one go


@dataclasses.dataclass(frozen=True)
class SearchData:
    """A catalog's ids, its features and the split log."""

    catalog: Catalog
    features: Features
    split: Split

    @functools.cached_property
    def checksums(self) -> dict[tuple[str, str], int]:
        """Of each side's and modality's features, for which all are read."""
        return {
            (side, modality): _checksum(rows)
            for side in ("items", "users")
            for modality, rows in getattr(self.features, side).items()
        }

    def tables(self, config: Config) -> ModelInputs:
        """What a model of these settings is built on."""
        # A search reads ids and features again, not the columns that an export shows or filters by.
        config = config.replace(data={"attributes": (), "title": None})
        return ModelInputs.build(config, self.catalog, self.features, self.split.train)

    def mark(self, tables: ModelInputs) -> str:
        """Tells data from other data, wherever the store has a medium's features; `tables` are of this one."""
        found = [data_mark(dataclasses.replace(tables, items={}, users={}), self.split)]
        for side in ("items", "users"):
            for modality, rows in getattr(self.features, side).items():
                found.append(f"{side} {modality} {rows.fingerprint} {self.checksums[side, modality]}")
        return hashlib.sha256("\n".join(found).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes ids, rows and events, over what is there; features are pointed at where they lie in a file, else copied."""
        make_folder(folder)
        save_array(folder / "item_ids.npy", self.catalog.ids.astype(str))
        save_array(folder / "user_ids.npy", self.features.user_ids.astype(str))
        write_split(folder / "events.parquet", self.split)
        found = []
        for side in ("items", "users"):
            for modality, rows in getattr(self.features, side).items():
                name = f"{side}.{modality}"
                save_array(folder / f"{name}.rows.npy", rows.rows)
                found.append(
                    {
                        "side": side,
                        "modality": modality,
                        "fingerprint": rows.fingerprint,
                        "matrix": _keep(rows.matrix, self.checksums[side, modality], folder / f"{name}.matrix.npy"),
                    }
                )
        write_json(folder / "data.json", {"split": self.split.kind, "features": found})

    @classmethod
    def load(cls, folder: Path) -> SearchData:
        """What `save` wrote. Raises `Surroundings` if it cannot be read, or features are no longer what they were."""
        try:
            facts = json.loads((folder / "data.json").read_text(encoding="utf-8"))
            sides: dict[str, dict[str, FeatureRows]] = {"items": {}, "users": {}}
            for each in facts["features"]:
                rows = np.load(folder / f"{each['side']}.{each['modality']}.rows.npy")
                sides[each["side"]][each["modality"]] = _opened(each, rows, folder)
            ids, users = (np.load(folder / f"{name}.npy").astype(object) for name in ("item_ids", "user_ids"))
            split = read_split(folder / "events.parquet", facts["split"])
        except Exception as error:  # whatever is wrong with its files
            raise Surroundings(
                f"{folder}: the data of this search cannot be read ({error}). The same `mmtfrs tune` writes it again."
            ) from None
        return cls(Catalog.from_dict({"item_id": ids}), Features(**sides, user_ids=users), split)


def _keep(matrix: np.ndarray, checksum: int, path: Path) -> dict:
    if isinstance(matrix, np.memmap) and matrix.filename is not None:
        file = Path(matrix.filename).resolve()
        return {
            "file": os.path.relpath(file, path.parent.resolve()),  # search and store may be moved together
            "stamp": _stamp(file),
            "checksum": checksum,
            "dtype": matrix.dtype.str,
            "offset": matrix.offset,
            "shape": list(matrix.shape),
        }
    save_array(path, matrix)
    return {"copy": path.name}


def _opened(each: dict, rows: np.ndarray, folder: Path) -> FeatureRows:
    matrix = each["matrix"]
    if "copy" in matrix:
        return FeatureRows(np.load(folder / matrix["copy"], mmap_mode="r"), rows, each["fingerprint"])
    path = folder / matrix["file"]
    shape = tuple(matrix["shape"])
    found = FeatureRows(np.memmap(path, matrix["dtype"], "r", matrix["offset"], shape), rows, each["fingerprint"])
    # Another store may lie where this one did, with other media in the same rows.
    if _stamp(path) != matrix["stamp"] and _checksum(found) != matrix["checksum"]:
        raise ValueError(f"{path} has other features than this search was begun with")
    return found


def _stamp(path: Path) -> list[int]:
    """Whatever has another one is looked at."""
    known = path.stat()
    return [known.st_size, known.st_mtime_ns]


def _checksum(rows: FeatureRows) -> int:
    """Of the features in the order of the catalog, wherever they lie in the store."""
    found = 0
    for start in range(0, len(rows), _ROWS):
        found = zlib.crc32(np.ascontiguousarray(rows[start : start + _ROWS]), found)
    return found
