"""Writing a trained model as a run folder with everything that evaluation and export need, and reading it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmtfrs._version import __version__
from mmtfrs.data.splits import Split
from mmtfrs.errors import RunError
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.storage import save_inputs
from mmtfrs.models.carried import carry_encoders
from mmtfrs.models.run_folder import FORMAT, WEIGHTS, damaged, read_run, training_in, using, write_run_sums, write_split
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.utils.files import make_folder, replacing, save_arrays, write_arrays, write_json, writing
from mmtfrs.utils.finite import not_finite
from mmtfrs.utils.sums import SUMS


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
        WriteError: the folder cannot be written.
        RunError: another process uses the run, or the weights are not finite.

    Example: see `load_run`.
    """
    folder = Path(folder)
    with training_in(folder):
        if not (folder / "run.json").exists():
            start_run(model, folder, split, tables, **facts)
        end_run(model, folder)


def start_run(
    model: TwoTower, folder: Path, split: Split | None = None, tables: ModelInputs | None = None, **facts: Any
) -> None:
    """Writes all of a run but its weights; `run.json` comes last and makes the folder a run."""
    save_tables(tables or model.data, folder)
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


def save_tables(tables: ModelInputs, folder: Path) -> None:
    """Writes `tables/` of a run, and the encoders that must go with it."""
    make_folder(folder / "tables")  # first: what a killed start leaves is known by this folder
    save_inputs(dataclasses.replace(tables, encoders=carry_encoders(tables.encoders, folder)), folder / "tables")


def end_run(model: TwoTower, folder: Path) -> None:
    """Writes the weights, which make a run a finished one, and right before them the sums of all files. Over a finished run the
    sums come after: killed in between, it has none."""
    _check_finite(model, folder / WEIGHTS)
    over = (folder / WEIGHTS).exists()
    if over:
        with writing(folder):
            (folder / SUMS).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as file:
        write_arrays(file, _weights(model))
        file.flush()
        if not over:
            write_run_sums(folder, Path(file.name))
    if over:
        write_run_sums(folder, folder / WEIGHTS)


def load_run(folder: str | Path, trust_code: bool = False) -> TwoTower:
    """The trained model of a run folder.

    Args:
        folder: of the run.
        trust_code: whether code that the run names, as a fusion of somebody's own, may be imported and run.

    Raises:
        RunError: not a run folder, unfinished, damaged, of another version, or another process is training it, or it names code
            that is not trusted.

    Example:
        >>> save_run(model, "run", split)
        >>> bool((load_run("run").candidate_embeddings() == model.candidate_embeddings()).all())
        True
    """
    with using(folder):
        return load_own_run(Path(folder), trust_code)


def load_own_run(folder: Path, trust_code: bool = False) -> TwoTower:
    """As `load_run`, of a run that this process holds already."""
    config, tables = read_run(folder, trust_code)
    model = TwoTower(config, tables=tables)
    load_weights(model, folder / WEIGHTS)
    return model


def save_weights(model: TwoTower, path: Path) -> None:
    """All weights as one `.npz`, by position and name; complete or not at all. Raises `RunError` where one is not finite."""
    _check_finite(model, path)
    save_arrays(path, _weights(model))


def _weights(model: TwoTower) -> Iterator[tuple[str, np.ndarray]]:
    return ((f"{number:03d}/{weight.name}", weight.numpy()) for number, weight in enumerate(model.weights))


def _check_finite(model: TwoTower, path: Path) -> None:
    if name := not_finite(model.weights):
        raise RunError(f"{path}: the weights {name} are not finite: the training has diverged. Lower the learning rate.")


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
    except Exception as error:  # whatever is wrong with the file
        raise damaged(path.parent, error) from error
