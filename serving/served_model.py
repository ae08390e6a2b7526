"""The versions of one model on disk and in memory: the newest one serves, and newer ones are picked up."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from mmtfrs.exporting.loaded import short_message
from mmtfrs.exporting.versions import versions
from serving.servable import Servable

log = logging.getLogger("serving")
State = get_model_status_pb2.ModelVersionStatus


@dataclasses.dataclass
class Status:
    """What ModelService says of a version."""

    state: int
    error_code: int = 0
    error_message: str = ""


class ServedModel:
    """Serves the newest version below a folder that loads.

    A new version is loaded and warmed up beside the old one and takes its place at once; requests in flight finish on the
    version they began with, which is let go when the last one has. A version that cannot be loaded is reported and tried again
    only when its files change.

    Args:
        name: as clients call it.
        folder: holds the version folders.
        only: the versions that may serve; all if None.
    """

    def __init__(self, name: str, folder: str | Path, only: frozenset[int] | None = None) -> None:
        self.name = name
        self.folder = Path(folder)
        self.only = only
        self.statuses: dict[int, Status] = {}
        self.current: Servable | None = None  # the version that answers, if any has loaded
        self._in_flight: collections.Counter[int] = collections.Counter()
        self._failed: dict[int, float] = {}
        self._loading, self._lock = threading.Lock(), threading.Lock()

    @contextlib.contextmanager
    def lease(self) -> Iterator[Servable]:
        """The version that answers, one of which has loaded, kept for as long as it is needed."""
        with self._lock:
            servable = self.current
            self._in_flight[servable.version] += 1
        try:
            yield servable
        finally:
            with self._lock:
                self._in_flight[servable.version] -= 1
                self._let_go(servable.version)

    def refresh(self) -> bool:
        """Loads the newest version if it is not the one that serves; true if the serving version changed."""
        with self._loading:
            try:
                return any(self._load(version) for version in self._newer())
            except OSError as error:  # a folder that cannot be read now may be readable the next time
                log.error("folder cannot be read", extra={"model": self.name, "reason": str(error)})
                return False

    def _newer(self) -> Iterator[int]:
        """The versions that may take the place of the one that serves, newest first."""
        serves = -1 if self.current is None else self.current.version
        for version in reversed(versions(self.folder)):
            may = version > serves and (self.only is None or version in self.only)
            if may and self._failed.get(version) != self._changed(version):
                yield version

    def _load(self, version: int) -> bool:
        changed = self._changed(version)
        self.statuses[version] = Status(State.LOADING)
        try:
            loaded = Servable(self.folder / str(version))
            loaded.warm_up()
        except Exception as error:  # whatever is wrong with its files, the version that serves goes on serving
            self._failed[version] = changed
            message = short_message(error) if str(error) else type(error).__name__
            self.statuses[version] = Status(State.END, 2, message)
            log.error("version cannot be loaded", extra={"model": self.name, "version": version, "reason": message})
            return False
        with self._lock:
            old, self.current = self.current, loaded
            self.statuses[version] = Status(State.AVAILABLE)
            if old is not None:
                self.statuses[old.version] = Status(State.UNLOADING)
                self._let_go(old.version)
        log.info("version serves", extra={"model": self.name, "version": version})
        return True

    def _let_go(self, version: int) -> None:
        if self.statuses[version].state == State.UNLOADING and not self._in_flight.get(version):
            self.statuses[version] = Status(State.END)

    def _changed(self, version: int) -> float:
        path = self.folder / str(version)
        times = [file.stat().st_mtime for file in path.rglob("*") if file.is_file()]
        return max(times, default=0.0) + len(times)
