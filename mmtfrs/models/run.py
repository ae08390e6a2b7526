"""Run folders: a trained model with everything that evaluation and export need, and nothing outside.

Layout: `run.json` (versions, what was trained on), `config.yaml`, `tables/` (ids and reduced features), `events.parquet` with
the part of the split each event fell into, `weights.npz`. While training goes on there is a `training/` folder with the
last complete epoch instead of `weights.npz`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from mmtfrs._version import __version__
from mmtfrs.config import Config
from mmtfrs.data.events import Events
from mmtfrs.data.splits import Split
from mmtfrs.errors import RunError
from mmtfrs.features.tables import Tables
from mmtfrs.files import replacing, write_json
from mmtfrs.models.two_tower import TwoTower

FORMAT = 4
RUN = "{run}"  # stands for the run's own folder in the names of encoders that were trained with it
WEIGHTS = "weights.npz"
_PARTS = ("train", "validation", "test")


def save_run(model: TwoTower, folder: str | Path, split: Split | None = None, **facts) -> None:
    """Writes a trained model so that `load_run` gives it back.

    Args:
        model: a trained model.
        folder: made if missing.
        split: the events it was trained and will be evaluated on, kept with it.
        facts: anything more for `run.json`.

    Raises:
        RunError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        if not (folder / "run.json").exists():
            start_run(model, folder, split, **facts)
        save_weights(model, folder / WEIGHTS)
    except OSError as error:
        raise RunError(f"{folder}: the run cannot be written ({error}).") from None


def start_run(model: TwoTower, folder: Path, split: Split | None = None, **facts) -> None:
    """Writes all of a run but its weights; `run.json` comes last and makes the folder a run."""
    folder.mkdir(parents=True, exist_ok=True)
    model.data.save(folder / "tables")  # first: what a killed start leaves is known by this folder
    model.config.write(folder / "config.yaml")
    if split is not None:
        write_split(folder / "events.parquet", split)
    known = {"format": FORMAT, "mmtfrs": __version__, "modalities": list(model.data.modalities),
             "items": len(model.data.item_ids), "users": len(model.data.user_ids),
             "split": split.kind if split else None, **facts}  # fmt: skip
    write_json(folder / "run.json", known)


def load_run(folder: str | Path) -> TwoTower:
    """The trained model of a run folder.

    Raises:
        RunError: this is no run folder, it is unfinished, damaged, or of another version.
    """
    folder = Path(folder)
    config, tables = read_run(folder)
    model = TwoTower(config, tables=tables)
    load_weights(model, folder / WEIGHTS)
    return model


def read_run(folder: Path) -> tuple[Config, Tables]:
    """What a trained model was built from: all of a run but its weights. Raises `RunError` as `load_run`."""
    read_facts(folder)
    if not (folder / WEIGHTS).exists():
        raise RunError(f"{folder}: the training has not ended. Run the same `mmtfrs train` command again to go on.")
    try:
        tables = Tables.load(folder / "tables")
        for modality, (name, mark) in tables.encoders.items():
            tables.encoders[modality] = (name.replace(RUN, str(folder.resolve())), mark)
        return Config.read(folder / "config.yaml"), tables
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder, error) from error


def read_facts(folder: str | Path) -> dict:
    """`run.json`. Raises `RunError` where there is none or it is of another version."""
    path = Path(folder) / "run.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{folder}: this is no run folder (it has no readable run.json). Give the --out of a `mmtfrs train`."
        ) from None
    if version != FORMAT:
        raise RunError(
            f"{folder}: the run is of format {version} (mmtfrs {facts.get('mmtfrs')}); this release reads {FORMAT}. "
            "Train it again, or use that release."
        )
    return facts


def load_split(folder: str | Path) -> Split:
    """The events of a run, in their parts. Raises `RunError` if the run was saved without."""
    path = Path(folder) / "events.parquet"
    if not path.exists():
        raise RunError(f"{folder}: the run was saved without its events.")
    return read_split(path, read_facts(folder)["split"])


def read_split(path: Path, kind: str) -> Split:
    """What `write_split` wrote, of a split of this kind."""
    table = pyarrow.parquet.read_table(path)
    part = table.column("part").to_numpy()
    events = Events(
        *(table.column(name).to_numpy() for name in ("user_id", "item_id", "timestamp", "weight")),
        table.column("rating").to_numpy() if "rating" in table.column_names else None,
    )
    train = events.take(np.flatnonzero(part == 0))
    return Split(
        kind,
        train,
        events.take(np.flatnonzero(part == 1), known=train),
        events.take(np.flatnonzero(part == 2), known=events.take(np.flatnonzero(part <= 1))),
    )


def load_part(folder: str | Path, part: str) -> Events:
    """The `validation` or `test` events of a run. Raises `RunError` if it has none."""
    split = load_split(folder)
    events = getattr(split, part)
    if part == "validation" and Config.read(Path(folder) / "config.yaml").training.refit:
        raise RunError(
            f"{folder}: the run was trained on its validation events too. Evaluate the test part, "
            "or train with `training.refit: false`."
        )
    if not len(events):
        raise RunError(f"{folder}: the run's split (`{split.kind}`) has no {part} events, so there is nothing to evaluate.")
    return events


def save_weights(model: TwoTower, path: Path) -> None:
    """All weights as one `.npz`, by position and name; complete or not at all."""
    arrays = {f"{number:03d}/{weight.name}": weight.numpy() for number, weight in enumerate(model.weights)}
    with replacing(path) as file:
        np.savez(file, **arrays)


def load_weights(model: TwoTower, path: Path) -> None:
    """What `save_weights` wrote. Raises `RunError` when they cannot be read or are of another model."""
    try:
        with np.load(path) as saved:
            names = [f"{number:03d}/{weight.name}" for number, weight in enumerate(model.weights)]
            if names != list(saved.files):
                raise ValueError(f"{path.name} holds the weights of another model")
            model.set_weights([saved[name] for name in names])
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path.parent, error) from error


def _damaged(folder: Path, error: Exception) -> RunError:
    return RunError(f"{folder}: the run is damaged ({error}). Train it again.")


def write_split(path: Path, split: Split) -> None:
    """The events of all parts, as `read_split` reads them."""
    parts = [getattr(split, name) for name in _PARTS]
    columns = {
        "user_id": pa.array(np.concatenate([part.user_ids for part in parts]), pa.string()),
        "item_id": pa.array(np.concatenate([part.item_ids for part in parts]), pa.string()),
        "timestamp": np.concatenate([part.timestamps for part in parts]),
        "weight": np.concatenate([part.weights for part in parts]),
        "part": np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts]),
    }
    if all(part.ratings is not None for part in parts):
        columns["rating"] = np.concatenate([part.ratings for part in parts])
    pyarrow.parquet.write_table(pa.table(columns), path)
