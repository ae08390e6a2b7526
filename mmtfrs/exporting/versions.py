"""Version folders, as TF Serving reads them: NAME/1, NAME/2, ...; each appears complete or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmtfrs.errors import ExportError
from mmtfrs.utils.files import check_writable, make_folder, remove, writing
from mmtfrs.utils.leftovers import GONE, part_folder
from mmtfrs.utils.locks import lock, opened, still_there
from mmtfrs.utils.sums import SUMS, write_sums, wrong_file

log = logging.getLogger("mmtfrs")

_EXTRA = "assets.extra"
FACTS = "mmtfrs.json"  # in assets.extra
MODEL = "model"  # the folder in assets.extra that carries the trained model, for a refresh


def versions(folder: str | Path) -> list[int]:
    """The version numbers below a model's folder, ascending."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def some_versions(folder: str | Path) -> list[int]:
    """As `versions`. Raises `ExportError` where there is none."""
    if found := versions(folder):
        return found
    raise ExportError(f"{folder}: holds no version of a model. Export one with `mmtfrs export RUN {folder}`.")


@contextlib.contextmanager
def new_version(folder: str | Path) -> Iterator[Path]:
    """Gives an empty folder beside the versions, and renames it to the next free number when all went well. Its name is no
    number, so TF Serving does not look at it; what killed exports have left is removed.

    Raises:
        WriteError: the folder cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    with writing(folder), part_folder(folder) as part:
        yield part
        _write_sums(part)
        _flush(part)
        while True:
            target = folder / str(max(versions(folder), default=0) + 1)
            try:
                part.rename(target)
                break
            except OSError:
                if not target.exists():  # else another export took the number: take the next
                    raise


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """One export or refresh at a time, so that a refresh follows the newest version and none is lost; others wait.

    Raises:
        WriteError: the folder cannot be written.
    """
    folder = Path(folder)
    check_writable(folder)
    make_folder(folder)
    with opened(folder) as number:
        if not lock(number):
            log.info("%s: waiting for another export or refresh to end", folder)
            lock(number, wait=True)
        yield


@contextlib.contextmanager
def reading(folder: str | Path) -> Iterator[Path]:
    """The newest version below a folder, or a version folder itself, which no export removes while the block reads it.

    Raises:
        ExportError: there is no version, it is no complete SavedModel, or its files are not what was written.
    """
    with contextlib.ExitStack() as stack:
        while True:
            version = newest_version(folder)
            with contextlib.suppress(FileNotFoundError):
                number = stack.enter_context(opened(version))
                lock(number, shared=True, wait=True)
                if still_there(number, version):
                    break
            # It has been removed before it was locked: a newer one is there.
        check_sums(version)
        yield version


def check_sums(version: Path, names: Sequence[str] = ()) -> None:
    """Raises `ExportError` where a file of a version, or one of those that are named, is not what was written."""
    if wrong := wrong_file(version, version / _EXTRA / SUMS, names):
        raise ExportError(f"{version}: the export is damaged ({wrong}). Export it again.")


def _write_sums(version: Path) -> None:
    (version / _EXTRA).mkdir(exist_ok=True)
    found = sorted(path for path in version.rglob("*") if path.is_file())
    write_sums(version / _EXTRA / SUMS, {path.relative_to(version).as_posix(): path for path in found})


def facts(version: Path) -> dict:
    """What an exported version says of itself; empty where it says nothing. Raises `ExportError` if that is damaged."""
    check_sums(version, (f"{_EXTRA}/{FACTS}",))
    try:
        found = json.loads((version / _EXTRA / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def prune(folder: str | Path, keep: int) -> list[int]:
    """Removes all but the newest `keep` versions, 0 for none, and returns those that went.

    A version is renamed before its files go, so that nobody finds half of one. One that is being read, or cannot be removed,
    stays and is told.
    """
    folder = Path(folder)
    gone = []
    for version in versions(folder)[:-keep] if keep else []:
        path, going = folder / str(version), folder / f"{GONE}{version}"
        try:
            with opened(path) as number:
                if not lock(number):
                    log.warning("%s: stays until the next export, for it is being read", path)
                    continue
                path.rename(going)
                gone.append(version)
                remove(going)
        except FileNotFoundError:
            pass  # another export has removed it
        except OSError as error:
            log.error("%s: cannot be removed (%s). Remove it by hand.", path, error.strerror)
    return gone


def newest_version(folder: str | Path) -> Path:
    """The folder of the newest version; a version folder itself is taken as it is.

    Raises:
        ExportError: there is no version, or it is no complete SavedModel.
    """
    folder = Path(folder)
    if (folder / "saved_model.pb").exists() or (folder / "variables").exists():
        return check_saved_model(folder)
    return check_saved_model(folder / str(some_versions(folder)[-1]))


def carried_model(version: Path) -> Path:
    """The run folder that a version carries. Raises `ExportError` where it has none."""
    carried = version / _EXTRA / MODEL
    if not (carried / "run.json").exists():
        raise ExportError(f"{version}: this version does not carry its model. Export it again with this release.")
    return carried


def check_saved_model(path: Path) -> Path:
    """The path, if it holds all files of a SavedModel; raises `ExportError` naming what is missing."""
    needed = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
    missing = [name for name in needed if not (path / name).is_file()]
    if missing:
        raise ExportError(f"{path}: this SavedModel is incomplete: {', '.join(missing)} missing. Export it again.")
    return path


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
