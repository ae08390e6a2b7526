"""Version folders, as TF Serving reads them: NAME/1, NAME/2, ...; each appears complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmtfrs.errors import ExportError
from mmtfrs.utils.leftovers import GONE, part_folder

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
        ExportError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part_folder(folder) as part:
            yield part
            part.chmod(0o755)
            _flush(part)
            while True:
                target = folder / str(max(versions(folder), default=0) + 1)
                try:
                    part.rename(target)
                    break
                except OSError:
                    if not target.exists():  # else another export took the number: take the next
                        raise
    except OSError as error:
        raise ExportError(f"{folder}: the export cannot be written ({error}).") from error


def facts(version: Path) -> dict:
    """What an exported version says of itself; empty where it says nothing."""
    try:
        found = json.loads((version / "assets.extra" / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def prune(folder: str | Path, keep: int) -> list[int]:
    """Removes all but the newest `keep` versions, 0 for none, and returns those that went.

    A version is renamed before its files go, so that nobody finds half of one.
    """
    folder = Path(folder)
    gone = versions(folder)[:-keep] if keep else []
    for version in gone:
        going = folder / f"{GONE}{version}"
        (folder / str(version)).rename(going)
        shutil.rmtree(going, ignore_errors=True)
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
    carried = version / "assets.extra" / MODEL
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
