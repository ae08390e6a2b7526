"""A catalog that changes under a trained model: the next version, without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mmtfrs.config.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.exporting.export import export_alone, found_index
from mmtfrs.exporting.versions import alone, carried_model, check_sums, newest_version
from mmtfrs.features.extract import extract
from mmtfrs.models.run import load_weights
from mmtfrs.models.run_folder import WEIGHTS, read_run
from mmtfrs.models.two_tower import TwoTower


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """What a refresh did: the new version's folder, and how many items it added, kept and removed; how many media were
    encoded for it."""

    path: Path
    added: int
    kept: int
    removed: int
    encoded: int


def refresh(
    folder: str | Path,
    catalog: Catalog,
    store: str | Path,
    config: Config | None = None,
    strict: bool = False,
    progress: bool = True,
    trust_code: bool = False,
) -> Refreshed:
    """Writes the next version of an exported model with another catalog.

    Items that the model was trained with keep what it learned about their ids, whatever changed about their media. New ones are
    placed by their media alone. What is not in the catalog is gone, also from histories. Media that the feature store has are
    not encoded again.

    Args:
        folder: `saved_models/NAME`, or a version folder of it.
        catalog: the whole new catalog.
        store: the feature store.
        config: settings of the extraction and the export; those of the version if None. What was trained stays.
        strict, progress: as in `extract`.
        trust_code: whether code that the export names may be imported and run.

    Raises:
        ExportError: there is no version, or it does not carry its model.
        EncoderError, StoreError, DataError: as `extract`.
    """
    with alone(newest_version(folder).parent):
        version = newest_version(folder)
        carried = carried_model(version)
        check_sums(version)
        return _refresh(version, carried, catalog, store, config, strict, progress, trust_code)


def _refresh(
    version: Path,
    carried: Path,
    catalog: Catalog,
    store: str | Path,
    config: Config | None,
    strict: bool,
    progress: bool,
    trust_code: bool,
) -> Refreshed:
    trained, tables = read_run(carried, trust_code)
    now = config or trained
    settings = trained.replace(
        # What made the features, not what that was made from: what is fitted on a catalog would be fitted anew.
        encoders={modality: name for modality, (name, _) in tables.encoders.items() if name},
        data=now.data.model_dump(),
        extraction=now.extraction.model_dump(),
        export=now.export.model_dump(),
    )
    features = extract(catalog, settings, store, strict=strict, progress=progress)
    model = TwoTower(settings, tables=tables.of_catalog(settings, catalog, features))
    load_weights(model, carried / WEIGHTS)
    model.keep_encoders(features.encoders)
    known = set(tables.item_ids)
    kept = sum(item in known for item in catalog.ids)
    same = now.export.model_copy(update={"keep": 0}) == trained.export.model_copy(update={"keep": 0})
    before = found_index(version) if same else None
    path = export_alone(model, version.parent, before=before)
    return Refreshed(path, len(catalog) - kept, kept, len(known) - kept, features.encoded)
