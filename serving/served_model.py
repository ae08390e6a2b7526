"""The versions of one model on disk and in memory: the newest one serves, and newer ones are picked up."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
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
        self._current: Servable | None = None
        self._in_flight: dict[int, int] = {}
        self._failed: dict[int, float] = {}
        self._loading = threading.Lock()
        self._lock = threading.Lock()

    @property
    def current(self) -> Servable | None:
        """The version that answers, if any has loaded."""
        return self._current

    @contextlib.contextmanager
    def lease(self) -> Iterator[Servable | None]:
        """The version that answers, kept for as long as it is needed."""
        with self._lock:
            servable = self._current
            if servable is not None:
                self._in_flight[servable.version] = self._in_flight.get(servable.version, 0) + 1
        try:
            yield servable
        finally:
            if servable is not None:
                with self._lock:
                    self._in_flight[servable.version] -= 1
                    self._let_go(servable.version)

    def refresh(self) -> bool:
        """Loads the newest version if it is not the one that serves; true if the serving version changed."""
        with self._loading:
            for version in reversed(versions(self.folder)):
                if self.only is not None and version not in self.only:
                    continue
                if self._current is not None and version <= self._current.version:
                    return False
                if self._failed.get(version) == self._changed(version):
                    continue
                if self._load(version):
                    return True
            return False

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
            old, self._current = self._current, loaded
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


class Watcher(threading.Thread):
    """Looks for new versions every so many seconds until stopped."""

    def __init__(self, models: Sequence[ServedModel], seconds: float) -> None:
        super().__init__(daemon=True, name="versions")
        self._models, self._seconds = models, seconds
        self._stop_event = threading.Event()

    def run(self) -> None:
        while not self._stop_event.wait(self._seconds):
            for model in self._models:
                try:
                    model.refresh()
                except OSError as error:  # a folder that cannot be read now may be readable the next time
                    log.error("folder cannot be read", extra={"model": model.name, "reason": str(error)})

    def stop(self) -> None:
        self._stop_event.set()
