"""One column of media on its way into the store, in bounded memory.

Threads read, hash and decode ahead; the calling thread encodes full batches. At most a few batches of decoded media exist
at any moment. What was encoded before, in this run or an earlier one, is looked up and never decoded again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mmtfrs.config.config import Config
from mmtfrs.data.media_table import VIDEO, MediaTable
from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import MediaError
from mmtfrs.features.feature_space import FeatureSpace
from mmtfrs.features.features import Reject
from mmtfrs.features.store import FeatureStore
from mmtfrs.media.decode import real_path
from mmtfrs.media.video import NO_SOUND
from mmtfrs.utils.finite import bad_rows
from mmtfrs.utils.prefetch import ahead
from mmtfrs.utils.progress import progress_bar

_LOOK_UP = 512  # media that the store is asked for at once
_BATCH_BYTES = 128 << 20  # a batch ends early when its decoded media reach this


_NOTHING = np.zeros(0)  # for a medium that was not decoded


class _Prepared(NamedTuple):
    """One medium on its way: already in the store (`row`), decoded, or refused (`reason`)."""

    digest: bytes = b""
    row: int = -1
    decoded: np.ndarray = _NOTHING
    reason: str = ""
    file: tuple[str, os.stat_result, bytes] | None = None


class ColumnJob:
    """One column of media of one table.

    Attributes:
        rejects: media that were set aside.
        encoded: how many were encoded.
        lacking: how many should have been, had the store not been read-only.
    """

    def __init__(
        self,
        table: MediaTable,
        column: str,
        encoder: Encoder,
        store: FeatureStore,
        space: FeatureSpace,
        pool: ThreadPoolExecutor,
        config: Config,
        progress: bool,
    ) -> None:
        self.table = table
        self.column = column
        self.encoder = encoder
        self.store = store
        self.space = space
        self.pool = pool
        self.bounds = config.extraction
        self.root = config.data.media_root
        self.progress = progress
        self.rejects: list[Reject] = []
        self.encoded = self.lacking = 0
        self.rows = np.array([], np.int64)
        self._waiting: dict[bytes, list[int]] = {}  # digest -> catalog rows of the batch being filled
        self._decoded: list[np.ndarray] = []
        self._size = 0  # bytes of what was decoded
        self._files: list[tuple[str, os.stat_result, bytes]] = []

    def run(self, rows: np.ndarray) -> None:
        """Fills in `[N] int64`, the row of the encoder's matrix for each row of the table, where it is still -1."""
        self.rows = rows
        total = self.table.count(self.column)
        label = f"{self.table.section}: {self.encoder.modality}" + (" of videos" if self.column == VIDEO else "")
        with progress_bar(label, total, self.progress) as advance:
            limit = 3 * self.bounds.batch_size  # enough to decode while a batch is encoded and written
            if not self.encoder.in_graph:  # images in their own size
                limit = min(limit, 2 * self.bounds.workers)
            for row, prepared in ahead(self.pool, self._prepare, self._unknown(advance), limit):
                self._take(row, prepared)
                full = len(self._decoded) >= self.bounds.batch_size * self.encoder.window
                if full or self._size >= _BATCH_BYTES:
                    self._flush()
                advance(1)
            self._flush()

    def _unknown(self, advance: Callable[[int], None]) -> Iterator[tuple[int, tuple[str]]]:
        """Rows with media that the store is not known to have; those of the others are filled in.

        The store is asked for many at a time; it knows a file by its size and time, without reading it.
        """
        with ThreadPoolExecutor(self.bounds.workers) as looks:  # of its own: not behind what is being decoded
            for start in range(0, len(self.table), _LOOK_UP):
                media = enumerate(self.table.media(start, start + _LOOK_UP, self.column), start)
                wanted = [(row, medium) for row, medium in media if medium and self.rows[row] < 0]
                if not wanted:
                    continue
                digests = self._known_digests([medium for _, medium in wanted], looks)
                places = self.space.find_all([digest for digest in digests if digest])
                self.rows[[row for row, _ in wanted]] = found = [places.get(digest, -1) for digest in digests]
                advance(len(found) - found.count(-1))
                for (row, medium), place in zip(wanted, found, strict=True):
                    if place < 0:
                        yield row, (medium,)

    def _known_digests(self, media: list[str], looks: ThreadPoolExecutor) -> list[bytes]:
        """The digest of each medium that need not be read for it, b"" of the others."""
        if self.encoder.modality == "text":
            return [hashlib.sha256(text.encode("utf-8", "surrogatepass") + self.encoder.salt).digest() for text in media]
        workers = self.bounds.workers  # a file system may be far away
        slices = looks.map(lambda first: [self._stat(path) for path in media[first::workers]], range(workers))
        stats: list[os.stat_result | None] = [None] * len(media)
        for first, found in enumerate(slices):
            stats[first::workers] = found
        keys = [self._key(path) for path in media]
        known = self.store.known_digests(keys)
        digests = []
        for key, stat in zip(keys, stats, strict=True):
            size, changed, digest = known.get(key, (0, 0, b""))
            digests.append(digest if stat and (stat.st_size, stat.st_mtime_ns) == (size, changed) else b"")
        return digests

    def _stat(self, path: str) -> os.stat_result | None:
        """None where there is no such file, or none that may be read: reading it says so."""
        try:
            return os.stat(real_path(path, self.root))
        except (OSError, ValueError, MediaError):
            return None

    def _key(self, path: str) -> str:
        return path + self.encoder.salt.decode()

    def _prepare(self, medium: str) -> _Prepared:
        """Runs in a thread: reads, hashes and, if the store does not have it, decodes one medium."""
        try:
            text = self.encoder.modality == "text"
            stat = None if text else self._stat(medium)
            data = self.encoder.read(medium if text else real_path(medium, self.root), self.bounds)
            digest = hashlib.sha256(data + self.encoder.salt).digest()
            file = (self._key(medium), stat, digest) if stat else None
            row = self.space.find(digest) if stat else -1  # that of a text was asked for with the others
            if row >= 0:
                return _Prepared(digest, row, file=file)
            return _Prepared(digest, -1, self.encoder.decode(data, self.bounds), file=file)
        except MediaError as error:
            return _Prepared(reason=str(error))

    def _take(self, row: int, prepared: _Prepared) -> None:
        if prepared.reason == NO_SOUND:
            return  # a video without audio track is fine
        if prepared.reason:
            self._reject(row, prepared.reason)
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
            self._size += _bytes(prepared.decoded)

    def _encoded(self, media: list[np.ndarray]) -> np.ndarray:
        """Features of a batch.

        Which media the last, smaller one has follows, where they are sorted by length, from where a run began: after a kill it
        has others. In a batch of another size a network gives other last digits, so it is filled; not for a function of the
        user's own, which may cost.
        """
        lack = self.bounds.batch_size - len(media) if self.encoder.window > 1 and self.encoder.in_graph else 0
        return self.encoder.encode_batch([*media, *media[-1:] * lack])[: len(media)]

    def _reject(self, row: int, reason: str) -> None:
        name = self.table.table.column(self.column)[row].as_py()
        self.rejects.append(Reject(self.table.section, str(self.table.ids[row]), self.column, name[:200], reason))

    def _flush(self) -> None:
        """Encodes what was decoded, a batch at a time of media of like length, and stores each."""
        if self.store.read_only:
            self.lacking += len(self._waiting)
            self._waiting, self._decoded, self._size, self._files = {}, [], 0, []
            return
        digests, size = list(self._waiting), self.bounds.batch_size
        order = sorted(range(len(digests)), key=lambda place: self.encoder.length(self._decoded[place]))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            features = self._encoded([self._decoded[place] for place in part])
            bad = bad_rows(features)
            for place in bad:
                for row in self._waiting[digests[part[place]]]:
                    self._reject(row, f"{self.encoder.name} makes features of it that are not finite")
            good = [digests[place] for number, place in enumerate(part) if number not in bad]
            stored = self.space.append(good, np.delete(features, bad, axis=0))
            for number, digest in zip(stored, good, strict=True):
                self.rows[self._waiting[digest]] = number
            self.encoded += len(good)
        self._waiting, self._decoded, self._size = {}, [], 0
        if self._files:
            self.store.remember_files(self._files)
            self._files = []


def _bytes(medium: np.ndarray) -> int:
    """Of a medium: a text, an array, or frames of several sizes."""
    if medium.dtype != object:
        return medium.nbytes
    return sum(frame.nbytes for frame in medium) if medium.ndim else len(medium.item())
