"""Extraction: every distinct medium of a catalog through its encoder, once."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmtfrs import encoders
from mmtfrs.config.config import Config
from mmtfrs.config.schema import MODALITIES, Modality
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.media_table import VIDEO, MediaTable
from mmtfrs.data.users import Users
from mmtfrs.encoders.augment import augmented
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.function import FunctionEncoder
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.encoders.names import AUTO
from mmtfrs.encoders.preprocess import Preprocessed, Step
from mmtfrs.encoders.video import FramesEncoder, SoundTrackEncoder
from mmtfrs.errors import DataError, EncoderError, MediaError, StoreError
from mmtfrs.features.features import FeatureRows, Features, Reject
from mmtfrs.features.index_file import mark_of
from mmtfrs.features.media_column import ColumnJob
from mmtfrs.features.precomputed import load_own
from mmtfrs.features.store import FeatureStore
from mmtfrs.media import decode_host
from mmtfrs.utils.extensions import imported
from mmtfrs.utils.files import replacing, write_json

log = logging.getLogger("mmtfrs")

_MARK = "sum"  # beside what `auto` was: one bit makes `efficientnetb1` of `efficientnetb0`
# Where a modality's media are looked for: a video stands in for an image or audio that an item does not have.
_COLUMNS = {"image": ("image", VIDEO), "text": ("text",), "audio": ("audio", VIDEO)}


def extract(
    catalog: Catalog,
    config: Config | None = None,
    store: str | Path = "features",
    users: Users | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Features:
    """Encodes what the store does not have yet, and gives the features of the whole catalog.

    An encoder is loaded only if some item or user carries its modality. A medium that cannot be decoded is set aside in
    `STORE/rejects.csv` and counts as absent. A feature that the disk has damaged is made again. A store that can only be read
    must have all that is asked for.

    Args:
        catalog: the items.
        config: encoders, bounds and modalities; the defaults if None.
        store: folder of the feature store.
        users: users with media of their own, if any.
        strict: raise instead of setting media aside.
        progress: show a progress bar on standard error when that is a terminal.

    Raises:
        EncoderError: an encoder cannot be loaded, or the decoder that the settings name is not there.
        StoreError: the store cannot be used.
        DataError: features of the user's own cannot be used, or with `strict`, any medium was set aside.

    Example:
        >>> catalog = Catalog.from_dict({"item_id": ["a", "b"], "text": ["a red shoe", ""]})
        >>> found = extract(catalog, Config(encoders={"text": "offline"}), "features", progress=False)
        >>> found.items["text"].present.tolist(), found.encoded
        ([True, False], 1)
    """
    config = config or Config()
    if config.extraction.decoder == "tensorflow-io":
        decode_host.require()
    tables: list[MediaTable] = [table for table in (catalog, users) if table is not None]
    made: dict[str, dict[Modality, FeatureRows]] = {"items": {}, "users": {}}
    used: dict[Modality, Encoder] = {}
    rejects: list[Reject] = []
    lacking: Counter[str] = Counter()
    encoded = 0
    with FeatureStore(store) as opened, ThreadPoolExecutor(config.extraction.workers) as pool:

        def rows_of(encoder: Encoder, tables: Sequence[MediaTable], rejects: list[Reject]) -> dict[str, FeatureRows]:
            nonlocal encoded
            space, rows = opened.space(encoder), {}
            for table in tables:
                rows[table.section] = np.full(len(table), -1, np.int64)
                for column in _COLUMNS[encoder.modality]:
                    if table.count(column):
                        job = ColumnJob(
                            table, column, _for_column(encoder, column, config), opened, space, pool, config, progress
                        )
                        job.run(rows[table.section])
                        rejects += job.rejects
                        encoded += job.encoded
                        lacking[encoder.modality] += job.lacking
            if space.damaged and not opened.read_only:
                log.warning("%s: %d rows were damaged; their media were encoded again", space.path, len(space.damaged))
            matrix = space.matrix()
            return {section: FeatureRows(matrix, found, encoder.fingerprint) for section, found in rows.items()}

        for modality in MODALITIES:
            if modality in config.data.features:
                continue
            wanted = config.model.modalities is None or modality in config.model.modalities
            if not wanted or not any(table.count(name) for table in tables for name in _COLUMNS[modality]):
                continue
            encoder = _encoder(modality, config, catalog, opened)
            used[modality] = encoder = encoders.preprocessed(encoder, config.extraction.step(modality))
            for section, found in rows_of(encoder, tables, rejects).items():
                made[section][modality] = found
            views = [augmented(encoder, number) for number in range(1, config.extraction.augment.views + 1)]
            made["items"][modality].views = tuple(rows_of(view, [catalog], [])["items"] for view in views)
        opened.require(lacking)
        if not opened.read_only:
            _write_rejects(opened, rejects)
    for modality, path in config.data.features.items():
        made["items"][modality] = load_own(modality, path, catalog)
    if strict and rejects:
        lines = "\n".join(f"{each.table} {each.id}: {each.modality} {each.medium}: {each.reason}" for each in rejects)
        raise DataError(f"{len(rejects)} media cannot be used (--strict):\n{lines}")
    user_ids = users.ids if users is not None else np.array([], object)
    return Features(made["items"], made["users"], used, user_ids, rejects, encoded)


def _encoder(modality: Modality, config: Config, catalog: Catalog, store: FeatureStore) -> Encoder:
    """The config's encoder; one that is fitted on a catalog is fitted here, and its file kept in the store. What `auto` is, is
    decided once for a store."""
    name = getattr(config.encoders, modality)
    if name.lower() == AUTO:
        return _chosen(modality, store)
    kind, _, path = name.partition(":")
    if name == "tfidf":
        from mmtfrs.encoders.tfidf import fit_tfidf

        return fit_tfidf(_texts(catalog, config), store.folder)
    if kind == "vectors" and not path.endswith(".npz"):
        from mmtfrs.encoders.word_vectors import fit_vectors

        encoders.check_name(modality, name)
        return fit_vectors(_texts(catalog, config), path, store.folder)
    return encoders.load(modality, name)


def _texts(catalog: Catalog, config: Config) -> Iterator[str]:
    """The catalog's texts as they are encoded; none for those that are set aside."""
    path = config.extraction.step("text")
    step = Step("text", path, imported(path, "extraction.preprocess.text")) if path else str
    for text in catalog.media(0, len(catalog), "text"):
        with contextlib.suppress(MediaError):
            yield step(text) if text.strip() else ""


def _chosen(modality: Modality, store: FeatureStore) -> Encoder:
    """What `auto` was when the store was begun; else what it is now, which is written down once it is there."""
    path = store.folder / "encoders.json"
    try:
        known = dict(json.loads(path.read_bytes())) if path.exists() else {}
        mark = known.pop(_MARK, None)
        if mark not in (None, mark_of(sorted(known.items()))) or not known.keys() <= {*MODALITIES}:
            raise ValueError("it is not what was written")
        name = str(known.get(modality) or encoders.choose(modality))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). Remove it, or name the encoders.") from None
    encoder = encoders.load(modality, name)
    if modality not in known and not store.read_only:
        known[modality] = name
        write_json(path, {**known, _MARK: mark_of(sorted(known.items()))})
    return encoder


def _for_column(encoder: Encoder, column: str, config: Config) -> Encoder:
    """The encoder of a column's media: for videos, what leads their frames or sound to the modality's own encoder. Raises
    `EncoderError` for one of images that takes them in no known size."""
    if column != VIDEO:
        return encoder
    if encoder.modality == "audio":
        return SoundTrackEncoder(encoder)
    if not isinstance(encoder, (ImageEncoder, FunctionEncoder, Preprocessed)):
        raise EncoderError(
            f"{encoder.name}: frames of videos need a mmtfrs.encoders.image.ImageEncoder. Received: {type(encoder).__name__}."
        )
    return FramesEncoder(encoder, config.extraction)


def _write_rejects(store: FeatureStore, rejects: list[Reject]) -> None:
    """Always written, so that an empty report says that nothing was set aside."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "id", "modality", "medium", "reason"))
    writer.writerows((each.table, each.id, each.modality, each.medium, each.reason) for each in rejects)
    with replacing(store.folder / "rejects.csv") as file:
        file.write(text.getvalue().encode())
