"""Encoders that were fitted or tuned for one model: they lie in its run folder, and go where it goes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mmtfrs.config.schema import Modality
from mmtfrs.models.run_folder import RUN
from mmtfrs.utils.files import writing

_FITTED = ("tfidf", "vectors")


def carry_encoders(encoders: Mapping[Modality, tuple[str, str]], folder: Path) -> dict[Modality, tuple[str, str]]:
    """Copies what the encoders of a model stand on into its run folder, unless anybody can have it.

    Args:
        encoders: `{modality: (name, fingerprint)}`; the file of a fitted one is in a store, of a tuned one in another run.
        folder: of the run.

    Returns:
        The same, with names that begin at the run.
    """
    carried = dict(encoders)
    for modality, (name, mark) in encoders.items():
        kind, _, path = name.rpartition(":")
        source, own = Path(path), f"{modality}_encoder"
        if not (kind in _FITTED or source.name.startswith(own)) or not source.exists():
            continue
        target = own + "".join(source.suffixes) if kind not in _FITTED else f"{own}.npz"
        if source.resolve() != (folder / target).resolve():  # which a tuned one was written to
            with writing(folder / target):
                if source.is_dir():
                    shutil.copytree(source, folder / target, dirs_exist_ok=True)
                else:
                    shutil.copyfile(source, folder / target)
        carried[modality] = (f"{kind}:{RUN}/{target}" if kind else f"{RUN}/{target}", mark)
    return carried
