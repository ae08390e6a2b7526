"""The versions of one model on disk and in memory: those that the policy wants answer, newer ones are picked up."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from mmtfrs.exporting.loaded import short_message
from mmtfrs.exporting.versions import versions
from serving.servable import Servable

log = logging.getLogger("serving")
State = get_model_status_pb2.ModelVersionStatus


class ServedModel:
    """Serves the newest versions below a folder that load.

    A new version is loaded and warmed up beside the old ones before one of them is let go; requests in flight finish on the
    version they began with. A version whose folder is gone is let go once another one answers. A version that cannot be loaded
    is reported and tried again only when its files change.

    Args:
        name: as clients call it.
        folder: holds the version folders.
        latest: how many versions answer, the newest ones; all if None.
        only: the versions that may answer; all if None.
        labels: `{label: version}`, other names by which clients may ask for a version.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path,
        latest: int | None = 1,
        only: Collection[int] | None = None,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.folder, self.latest, self.only = name, Path(folder), latest, only
        self.labels = dict(labels or {})
        self.statuses: dict[int, State] = {}  # what ModelService says of each version
        self._loaded: dict[int, Servable] = {}  # replaced as a whole, so that it can be read without a lock
        self._failed: dict[int, float] = {}
        self._loading = threading.Lock()
        self._litter = False

    @property
    def current(self) -> Servable | None:
        """The newest version that answers, if any has loaded."""
        return self.get()

    def get(self, version: int | None = None) -> Servable | None:
        """A version that answers, the newest of them if None is named. It stays in memory for as long as it is referred to."""
        loaded = self._loaded
        return loaded.get(max(loaded, default=-1) if version is None else version)

    def refresh(self) -> bool:
        """Loads what the policy wants and is not loaded, lets go what it no longer wants; true if other versions answer now."""
        with self._loading:
            if self._litter:  # the graph of a version refers to itself: without this, each swap would cost its memory
                self._litter = False
                gc.collect()
            before = set(self._loaded)
            try:
                self._follow()
            except OSError as error:  # a folder that cannot be read now may be readable the next time
                log.error("folder cannot be read", extra={"model": self.name, "reason": str(error)})
            return set(self._loaded) != before

    def _follow(self) -> None:
        if not self.folder.is_dir():
            return  # a volume that is not mounted now says nothing of its versions
        found = [version for version in versions(self.folder) if self.only is None or version in self.only]
        wanted: list[int] = []
        for version in reversed(found):
            if len(wanted) != self.latest and (version in self._loaded or self._load(version)):
                wanted.append(version)
        if found and not wanted:
            return  # none of them can be loaded: what answers goes on answering
        for version in set(self._loaded) - set(wanted):
            self._note(version, State.UNLOADING)
            self._loaded = {other: servable for other, servable in self._loaded.items() if other != version}

    def _load(self, version: int) -> bool:
        changed = self._changed(version)
        if self._failed.get(version) == changed:
            return False
        self._note(version, State.LOADING)
        try:
            servable = Servable(self.folder / str(version))
            servable.warm_up()
        except Exception as error:  # whatever is wrong with its files, the versions that answer go on answering
            self._failed[version] = changed
            message = short_message(error) if str(error) else type(error).__name__
            self._note(version, State.END, 2, message)
            log.error("version cannot be loaded", extra={"model": self.name, "version": version, "reason": message})
            return False
        weakref.finalize(servable, self._ended, version).atexit = False  # when the last request on it has been answered
        self._loaded = {**self._loaded, version: servable}
        self._note(version, State.AVAILABLE)
        log.info("version serves", extra={"model": self.name, "version": version})
        return True

    def _note(self, version: int, state: int, code: int = 0, message: str = "") -> None:
        status = {"error_code": code, "error_message": message}
        self.statuses[version] = State(version=version, state=state, status=status)

    def _ended(self, version: int) -> None:
        self._litter = True
        if self.statuses[version].state == State.UNLOADING:  # else it is there again
            self._note(version, State.END)

    def _changed(self, version: int) -> float:
        path = self.folder / str(version)
        times = [file.stat().st_mtime for file in path.rglob("*") if file.is_file()]
        return max(times, default=0.0) + len(times)
