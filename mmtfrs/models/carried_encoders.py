"""Encoders that were fitted on a catalog, or trained with a run: their files go where the run goes, into an export too."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from mmtfrs.model_inputs.inputs import ModelInputs

RUN = "{run}"  # stands for the run's own folder in the names of its encoders
_FITTED = ("tfidf", "vectors")


def with_encoders(tables: ModelInputs, folder: Path) -> ModelInputs:
    """The tables as a run folder keeps them: it has the files of such encoders, whose names begin with `RUN`.

    What a user has named, as a folder of Hugging Face, stays where it is: its fingerprint is compared when it is loaded.
    """
    named = {modality: (_carried(name, folder), mark) for modality, (name, mark) in tables.encoders.items()}
    return dataclasses.replace(tables, encoders=named)


def here(name: str, folder: Path) -> str:
    """The name by which an encoder of a run folder is loaded, wherever that lies now."""
    return name.replace(RUN, str(folder.resolve()))


def _carried(name: str, folder: Path) -> str:
    kind, _, path = name.rpartition(":")
    file, own = Path(path), folder.resolve()
    if file.is_absolute() and own in file.parents:
        return f"{kind}:{RUN}/{file.relative_to(own)}".removeprefix(":")
    if not (file.is_absolute() and file.exists() and (kind in _FITTED or (file.parent / "run.json").exists())):
        return name
    target = folder / file.name
    if file.is_dir():
        shutil.copytree(file, target, copy_function=_link, dirs_exist_ok=True)
    else:
        target.unlink(missing_ok=True)
        _link(file, target)
    return f"{kind}:{RUN}/{file.name}".removeprefix(":")


def _link(source: str | Path, target: str | Path) -> None:
    """As a copy, without its bytes where that can be: nobody writes into such a file, it is replaced."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy(source, target)
