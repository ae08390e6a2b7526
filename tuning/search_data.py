"""The data of a search, prepared once: features stay where they are, memory-mapped, and every trial reads the same pages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from mmtfrs.config.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.splits import Split
from mmtfrs.errors import TuningError
from mmtfrs.features.features import FeatureRows, Features
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.run_folder import data_mark, read_split, write_split
from mmtfrs.utils.files import make_folder, replacing, write_json


@dataclasses.dataclass(frozen=True)
class SearchData:
    """A catalog's ids, its features and the split log."""

    catalog: Catalog
    features: Features
    split: Split

    def tables(self, config: Config) -> ModelInputs:
        """What a model of these settings is built on."""
        # A search reads ids and features again, not the columns that an export shows or filters by.
        config = config.replace(data={"attributes": (), "title": None})
        return ModelInputs.build(config, self.catalog, self.features, self.split.train)

    def mark(self, tables: ModelInputs) -> str:
        """Tells data from other data; `tables` are of this one."""
        return data_mark(tables, self.split)

    def save(self, folder: Path) -> None:
        """Writes ids, rows and events; features are pointed at where they lie in a file, and copied else."""
        make_folder(folder)
        _save(folder / "item_ids.npy", self.catalog.ids.astype(str))
        _save(folder / "user_ids.npy", self.features.user_ids.astype(str))
        write_split(folder / "events.parquet", self.split)
        found = []
        for side in ("items", "users"):
            for modality, rows in getattr(self.features, side).items():
                name = f"{side}.{modality}"
                _save(folder / f"{name}.rows.npy", rows.rows)
                found.append(
                    {
                        "side": side,
                        "modality": modality,
                        "fingerprint": rows.fingerprint,
                        "matrix": _keep(rows.matrix, folder / f"{name}.matrix.npy"),
                    }
                )
        write_json(folder / "data.json", {"split": self.split.kind, "features": found})

    @classmethod
    def load(cls, folder: Path) -> SearchData:
        """What `save` wrote. Raises `TuningError` if it cannot be read."""
        try:
            facts = json.loads((folder / "data.json").read_text(encoding="utf-8"))
            sides: dict[str, dict[str, FeatureRows]] = {"items": {}, "users": {}}
            for each in facts["features"]:
                rows = np.load(folder / f"{each['side']}.{each['modality']}.rows.npy")
                sides[each["side"]][each["modality"]] = FeatureRows(_open(each["matrix"], folder), rows, each["fingerprint"])
            ids, users = (np.load(folder / f"{name}.npy").astype(object) for name in ("item_ids", "user_ids"))
            split = read_split(folder / "events.parquet", facts["split"])
        except Exception as error:  # whatever is wrong with its files
            raise TuningError(f"{folder}: the data of this search cannot be read ({error}).") from None
        return cls(Catalog.from_dict({"item_id": ids}), Features(**sides, user_ids=users), split)


def _save(path: Path, array: np.ndarray) -> None:
    with replacing(path) as file:
        np.save(file, array)


def _keep(matrix: np.ndarray, path: Path) -> dict:
    if isinstance(matrix, np.memmap) and matrix.filename is not None:
        return {
            "file": str(Path(matrix.filename).resolve()),
            "dtype": matrix.dtype.str,
            "offset": matrix.offset,
            "shape": list(matrix.shape),
        }
    _save(path, matrix)
    return {"copy": path.name}


def _open(matrix: dict, folder: Path) -> np.ndarray:
    if "copy" in matrix:
        return np.load(folder / matrix["copy"], mmap_mode="r")
    return np.memmap(matrix["file"], matrix["dtype"], "r", matrix["offset"], tuple(matrix["shape"]))
