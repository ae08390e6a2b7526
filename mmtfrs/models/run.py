"""Writing a trained model as a run folder with everything that evaluation and export need, and reading it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmtfrs._version import __version__
from mmtfrs.data.splits import Split
from mmtfrs.errors import RunError
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.storage import save_inputs
from mmtfrs.models.carried_encoders import with_encoders
from mmtfrs.models.run_folder import FORMAT, WEIGHTS, damaged, read_run, write_split
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.files import replacing, write_arrays, write_json
from mmtfrs.utils.finite import not_finite


def save_run(
    model: TwoTower, folder: str | Path, split: Split | None = None, tables: ModelInputs | None = None, **facts: Any
) -> None:
    """Writes a trained model so that `load_run` gives it back.

    Args:
        model: a trained model.
        folder: made if missing.
        split: the events it was trained and will be evaluated on, kept with it.
        tables: what is written of ids, counts and features; the model's own if None.
        facts: anything more for `run.json`.

    Raises:
        RunError: the folder cannot be written.

    Example: see `load_run`.
    """
    folder = Path(folder)
    try:
        if not (folder / "run.json").exists():
            start_run(model, folder, split, tables, **facts)
        save_weights(model, folder / WEIGHTS)
    except OSError as error:
        raise RunError(f"{folder}: the run cannot be written ({error}).") from None


def start_run(
    model: TwoTower, folder: Path, split: Split | None = None, tables: ModelInputs | None = None, **facts: Any
) -> None:
    """Writes all of a run but its weights; `run.json` comes last and makes the folder a run."""
    folder.mkdir(parents=True, exist_ok=True)
    # First: what a killed start leaves is known by this folder.
    save_inputs(with_encoders(tables or model.data, folder), folder / "tables")
    model.config.write(folder / "config.yaml")
    if split is not None:
        write_split(folder / "events.parquet", split)
    known = {
        "format": FORMAT,
        "mmtfrs": __version__,
        "modalities": list(model.data.modalities),
        "items": len(model.data.item_ids),
        "users": len(model.data.user_ids),
        "split": split.kind if split else None,
        **facts,
    }
    write_json(folder / "run.json", known)


def load_run(folder: str | Path, trust_code: bool = False) -> TwoTower:
    """The trained model of a run folder.

    Args:
        folder: of the run.
        trust_code: whether code that the run names, as a fusion of somebody's own, may be imported and run.

    Raises:
        RunError: not a run folder, unfinished, damaged, of another version, or it names code that is not trusted.

    Example:
        >>> save_run(model, "run", split)
        >>> bool((load_run("run").candidate_embeddings() == model.candidate_embeddings()).all())
        True
    """
    folder = Path(folder)
    config, tables = read_run(folder, trust_code)
    model = TwoTower(config, tables=tables)
    load_weights(model, folder / WEIGHTS)
    return model


def save_weights(model: TwoTower, path: Path) -> None:
    """All weights as one `.npz`, by position and name; complete or not at all. Raises `RunError` where one is not finite."""
    if name := not_finite(model.weights):
        raise RunError(f"{path}: the weights {name} are not finite: the training has diverged. Lower the learning rate.")
    with replacing(path) as file:
        write_arrays(file, ((f"{number:03d}/{weight.name}", weight.numpy()) for number, weight in enumerate(model.weights)))


def load_weights(model: TwoTower, path: Path) -> None:
    """What `save_weights` wrote. Raises `RunError` when they cannot be read or are of another model."""
    try:
        with np.load(path) as saved:
            names = [f"{number:03d}/{weight.name}" for number, weight in enumerate(model.weights)]
            if names != list(saved.files):
                raise ValueError(f"{path.name} holds the weights of another model")
            model.set_weights([saved[name] for name in names])
        if name := not_finite(model.weights):
            raise ValueError(f"the weights {name} are not finite")
    except (OSError, ValueError, KeyError) as error:
        raise damaged(path.parent, error) from error
