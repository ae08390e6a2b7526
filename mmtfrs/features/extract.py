"""Extraction: every distinct medium of a catalogue through its encoder, once, in bounded memory.

Threads read, hash and decode ahead; the calling thread encodes full batches. At most a few batches of decoded media exist
at any moment. What was encoded before, in this run or an earlier one, is looked up and never decoded again.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmtfrs import encoders
from mmtfrs.config import MODALITIES, Config, Modality
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.media_table import VIDEO, MediaTable
from mmtfrs.data.users import Users
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.video import NO_SOUND, FramesEncoder, SoundTrackEncoder
from mmtfrs.errors import DataError, MediaError
from mmtfrs.features.features import FeatureRows, Features, Reject
from mmtfrs.features.own import load_own
from mmtfrs.features.progress import progress_bar
from mmtfrs.features.store import FeatureSpace, FeatureStore

# Where a modality's media are looked for: a video stands in for a picture or a sound that an item does not have.
_COLUMNS = {"image": ("image", VIDEO), "text": ("text",), "audio": ("audio", VIDEO)}
_LOOK_UP = 512  # media that the store is asked for at once
_BATCH_BYTES = 128 << 20  # a batch ends early when its decoded media reach this


def extract(
    catalog: Catalog,
    config: Config | None = None,
    store: str | Path = "features",
    users: Users | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Features:
    """Encodes what the store does not have yet, and gives the features of the whole catalogue.

    An encoder is loaded only if some item or user carries its modality. A medium that cannot be decoded is set aside in
    `STORE/rejects.csv` and counts as absent.

    Args:
        catalog: the items.
        config: encoders, bounds and modalities; the defaults if None.
        store: folder of the feature store.
        users: users with media of their own, if any.
        strict: raise instead of setting media aside.
        progress: show a progress bar on standard error when that is a terminal.

    Raises:
        EncoderError: an encoder cannot be loaded.
        StoreError: the store cannot be used.
        DataError: features of the user's own cannot be used, or with `strict`, any medium was set aside.
    """
    config = config or Config()
    tables: list[MediaTable] = [table for table in (catalog, users) if table is not None]
    made: dict[str, dict[Modality, FeatureRows]] = {"items": {}, "users": {}}
    used: dict[Modality, Encoder] = {}
    rejects: list[Reject] = []
    encoded = 0
    with FeatureStore(store) as opened, ThreadPoolExecutor(config.extraction.workers) as pool:
        for modality in MODALITIES:
            if modality in config.data.features:
                continue
            wanted = config.model.modalities is None or modality in config.model.modalities
            if not wanted or not any(table.count(name) for table in tables for name in _COLUMNS[modality]):
                continue
            used[modality] = encoder = _encoder(modality, config, catalog, Path(store))
            space = opened.space(encoder)
            rows = {}
            for table in tables:
                rows[table.section] = np.full(len(table), -1, np.int64)
                for column in _COLUMNS[modality]:
                    if table.count(column):
                        job = _Job(table, column, _for_column(encoder, column, config), opened, space, pool, config, progress)
                        job.run(rows[table.section])
                        rejects += job.rejects
                        encoded += job.encoded
            matrix = space.matrix()
            for section, found in rows.items():
                made[section][modality] = FeatureRows(matrix, found, encoder.fingerprint)
    for modality, path in config.data.features.items():
        made["items"][modality] = load_own(modality, path, catalog)
    _write_rejects(Path(store), rejects)
    if strict and rejects:
        lines = "\n".join(f"{each.table} {each.id}: {each.modality} {each.medium}: {each.reason}" for each in rejects)
        raise DataError(f"{len(rejects)} media cannot be used (--strict):\n{lines}")
    user_ids = users.ids if users is not None else np.array([], object)
    return Features(made["items"], made["users"], used, user_ids, rejects, encoded)


def _encoder(modality: Modality, config: Config, catalog: Catalog, store: Path) -> Encoder:
    """The config's encoder; one that is fitted on a catalogue is fitted here, and its file kept in the store."""
    name = getattr(config.encoders, modality)
    if name == "tfidf":
        from mmtfrs.encoders.tfidf import fit_tfidf

        path = (store / "tfidf.npz").resolve()
        fit_tfidf((catalog.medium(row, modality) for row in range(len(catalog))), path)
        name = f"tfidf:{path}"
    return encoders.load(modality, name)


def _for_column(encoder: Encoder, column: str, config: Config) -> Encoder:
    """The encoder of a column's media: for videos, what leads their frames or sound to the modality's own encoder."""
    if column != VIDEO:
        return encoder
    return FramesEncoder(encoder, config.extraction) if encoder.modality == "image" else SoundTrackEncoder(encoder)


class _Prepared(NamedTuple):
    """One medium on its way: already in the store (`row`), decoded, or refused (`reason`)."""

    digest: bytes = b""
    row: int = -1
    decoded: np.ndarray | None = None
    reason: str = ""
    file: tuple[str, os.stat_result, bytes] | None = None


class _Job:
    """One column of media of one table."""

    def __init__(self, table, column, encoder, store, space, pool, config, progress) -> None:
        self.table: MediaTable = table
        self.column: str = column
        self.encoder: Encoder = encoder
        self.store: FeatureStore = store
        self.space: FeatureSpace = space
        self.pool: ThreadPoolExecutor = pool
        self.bounds = config.extraction
        self.progress: bool = progress
        self.rejects: list[Reject] = []
        self.encoded = 0
        self.rows = np.array([], np.int64)
        self._waiting: dict[bytes, list[int]] = {}  # digest -> catalogue rows of the batch being filled
        self._decoded: list[np.ndarray] = []
        self._files: list[tuple[str, os.stat_result, bytes]] = []

    def run(self, rows: np.ndarray) -> None:
        """Fills in `[N] int64`, the row of the encoder's matrix for each row of the table, where it is still -1."""
        self.rows = rows
        total = self.table.count(self.column)
        label = f"{self.table.section}: {self.encoder.modality}" + (" of videos" if self.column == VIDEO else "")
        with progress_bar(label, total, self.progress) as advance:
            for row, prepared in self._ahead(advance):
                self._take(row, prepared)
                size = sum(each.nbytes for each in self._decoded)
                if len(self._decoded) >= self.bounds.batch_size or size >= _BATCH_BYTES:
                    self._flush()
                advance(1)
            self._flush()

    def _ahead(self, advance: Callable[[int], None]) -> Iterator[tuple[int, _Prepared]]:
        """Prepared media that have to be read, in catalogue order, a bounded number of them in flight."""
        window: deque[tuple[int, Future[_Prepared]]] = deque()
        limit = 3 * self.bounds.batch_size  # enough to decode while a batch is encoded and written
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: [future.cancel() for _, future in window])
            for row, medium, digest in self._unknown(advance):
                window.append((row, self.pool.submit(self._prepare, medium, digest)))
                if len(window) >= limit:
                    first, future = window.popleft()
                    yield first, future.result()
            while window:
                first, future = window.popleft()
                yield first, future.result()

    def _unknown(self, advance: Callable[[int], None]) -> Iterator[tuple[int, str, bytes]]:
        """Media that the store has not, with their digests if these are known; the rows of the others are filled in.

        The store is asked for many at a time; it knows a file by its size and time, without reading it.
        """
        for start in range(0, len(self.table), _LOOK_UP):
            media = self.table.media(start, start + _LOOK_UP, self.column)
            wanted = [(start + place, medium) for place, medium in enumerate(media) if medium and self.rows[start + place] < 0]
            if not wanted:
                continue
            digests = self._known_digests([medium for _, medium in wanted])
            places = self.space.find_all([digest for digest in digests if digest])
            self.rows[[row for row, _ in wanted]] = found = [places.get(digest, -1) for digest in digests]
            advance(len(found) - found.count(-1))
            for (row, medium), digest, place in zip(wanted, digests, found, strict=True):
                if place < 0:
                    yield row, medium, digest

    def _known_digests(self, media: list[str]) -> list[bytes]:
        """The digest of each medium that need not be read for it, b"" of the others."""
        if self.encoder.modality == "text":
            return [hashlib.sha256(text.encode("utf-8", "surrogatepass") + self.encoder.salt).digest() for text in media]
        workers = self.bounds.workers  # a file system may be far away
        slices = self.pool.map(lambda first: [_stat(path) for path in media[first::workers]], range(workers))
        stats: list[os.stat_result | None] = [None] * len(media)
        for first, found in enumerate(slices):
            stats[first::workers] = found
        known = self.store.known_digests([self._key(path) for path in media])
        digests = []
        for path, stat in zip(media, stats, strict=True):
            size, changed, digest = known.get(self._key(path), (0, 0, b""))
            digests.append(digest if stat and (stat.st_size, stat.st_mtime_ns) == (size, changed) else b"")
        return digests

    def _key(self, path: str) -> str:
        return path + self.encoder.salt.decode()

    def _prepare(self, medium: str, digest: bytes) -> _Prepared:
        """Runs in a thread: reads, hashes if need be and, if the store does not have it, decodes one medium."""
        try:
            file, stat = None, None if self.encoder.modality == "text" else _stat(medium)
            data = self.encoder.read(medium, self.bounds)
            if not digest:
                digest = hashlib.sha256(data + self.encoder.salt).digest()
                file = (self._key(medium), stat, digest) if stat else None
                row = self.space.find(digest)
                if row >= 0:
                    return _Prepared(digest, row, file=file)
            return _Prepared(digest, -1, self.encoder.decode(data, self.bounds), file=file)
        except MediaError as error:
            return _Prepared(reason=str(error))

    def _take(self, row: int, prepared: _Prepared) -> None:
        if prepared.reason == NO_SOUND:
            return  # a silent film is no mistake
        if prepared.reason:
            name = self.table.table.column(self.column)[row].as_py()
            self.rejects.append(Reject(self.table.section, str(self.table.ids[row]), self.column, name[:200], prepared.reason))
            return
        if prepared.file is not None:
            self._files.append(prepared.file)
        if prepared.row < 0 and prepared.digest not in self._waiting:
            # Its twin may have been encoded while this one was being decoded.
            prepared = prepared._replace(row=self.space.find(prepared.digest))
        if prepared.row >= 0:
            self.rows[row] = prepared.row
        elif prepared.digest in self._waiting:
            self._waiting[prepared.digest].append(row)
        else:
            self._waiting[prepared.digest] = [row]
            self._decoded.append(prepared.decoded)

    def _flush(self) -> None:
        if self._decoded:
            digests = list(self._waiting)
            stored = self.space.append(digests, self.encoder.encode_batch(self._decoded))
            for number, digest in zip(stored, digests, strict=True):
                self.rows[self._waiting[digest]] = number
            self.encoded += len(digests)
            self._waiting, self._decoded = {}, []
        if self._files:
            self.store.remember_files(self._files)
            self._files = []


def _stat(path: str) -> os.stat_result | None:
    """None where there is no such file: reading it says so."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _write_rejects(store: Path, rejects: list[Reject]) -> None:
    """Always written, so that an empty report says that nothing was set aside."""
    temporary = store / "rejects.csv.part"
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("table", "id", "modality", "medium", "reason"))
        writer.writerows((each.table, each.id, each.modality, each.medium, each.reason) for each in rejects)
    temporary.replace(store / "rejects.csv")
