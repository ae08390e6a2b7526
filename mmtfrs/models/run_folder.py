"""Run folders as files: what is in one, before a model is built from it. Nothing here needs TensorFlow.

Layout: `run.json` (versions, what was trained on), `config.yaml`, `tables/` (ids and reduced features), `events.parquet` with
the part of the split each event fell into, `weights.npz`, and `sums.json` of all these. While training goes on there is a
`training/` folder with the last complete epochs instead of `weights.npz`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from mmtfrs.config.config import Config
from mmtfrs.data.events import Events
from mmtfrs.data.id_column import IdColumn
from mmtfrs.data.splits import Split
from mmtfrs.encoders.names import code_of
from mmtfrs.errors import Error, RunError, first_line
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.storage import load_inputs
from mmtfrs.utils.extensions import check_trusted
from mmtfrs.utils.files import make_folder, replacing
from mmtfrs.utils.locks import held
from mmtfrs.utils.sums import SUMS, write_sums, wrong_file

FORMAT = 14
RUN = "{run}"  # stands for the run's own folder in the names of encoders that were trained with it
WEIGHTS = "weights.npz"
# What of a run is read again, and so must be what was written; `sums.json` says what that was.
_KEPT = ("run.json", "config.yaml", "events.parquet", "history.json", "tables/*", "*_encoder*", "*_encoder/**/*")
_PARTS = ("train", "validation", "test")


def check_run(folder: str | Path, part: str | None = None) -> dict:
    """`run.json` of a finished run, which has events in `part` if one is named.

    Raises:
        RunError: not a run folder, unfinished or of another version, or it has no such events.
    """
    facts = read_facts(folder)
    if not (Path(folder) / WEIGHTS).exists():
        raise RunError(f"{folder}: the training has not ended. Run the same `mmtfrs train` command again to go on.")
    if part is not None:
        _check_part(folder, part, facts["split"])
    return facts


def read_run(folder: Path, trust_code: bool = False) -> tuple[Config, ModelInputs]:
    """What a trained model was built from: all of a run but its weights. Raises `RunError` as `load_run`."""
    check_run(folder)
    if wrong := wrong_file(folder, folder / SUMS):
        raise damaged(folder, wrong)
    try:
        tables = load_inputs(folder / "tables")
        here = str(folder.resolve())
        encoders = {modality: (name.replace(RUN, here), mark) for modality, (name, mark) in tables.encoders.items()}
        config, tables = Config.read(folder / "config.yaml"), dataclasses.replace(tables, encoders=encoders)
    except Error:
        raise
    except Exception as error:  # whatever is wrong with its files
        raise damaged(folder, error) from error
    named = code_of(config, [(modality, name) for modality, (name, _) in tables.encoders.items()])
    check_trusted(folder, named, trust_code, RunError)
    return config, tables


def read_facts(folder: str | Path) -> dict:
    """`run.json`. Raises `RunError` where there is none or it is of another version."""
    path = Path(folder) / "run.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{folder}: not a run folder (it has no readable run.json). Give the --out of a `mmtfrs train`."
        ) from None
    if version != FORMAT:
        raise RunError(
            f"{folder}: the run is of format {version} (mmtfrs {facts.get('mmtfrs')}); this release reads {FORMAT}. "
            "Train it again, or use that release."
        )
    return facts


def read_history(folder: Path) -> list[dict[str, float]] | None:
    """The logs of each epoch; None where there are none, as of a run that was saved by hand. Raises `RunError`."""
    try:
        return json.loads((folder / "history.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error


def load_split(folder: str | Path) -> Split:
    """The events of a run, in their parts. Raises `RunError` if the run was saved without, or they cannot be read."""
    path, kind = _events_file(folder), read_facts(folder)["split"]
    try:
        return read_split(path, kind)
    except Exception as error:  # whatever is wrong with the file
        raise damaged(Path(folder), error) from error


def read_split(path: Path, kind: str) -> Split:
    """What `write_split` wrote, of a split of this kind."""
    table = pyarrow.parquet.read_table(path)
    part = table.column("part").to_numpy()
    users, items = (IdColumn.of(table.column(name)) for name in ("user_id", "item_id"))
    timestamps, weights = (table.column(name).to_numpy() for name in ("timestamp", "weight"))
    ratings = table.column("rating").to_numpy() if "rating" in table.column_names else None
    events = Events(users, items, timestamps, weights, ratings)
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
    _check_part(folder, part, split.kind)
    return getattr(split, part)


def _check_part(folder: str | Path, part: str, kind: str) -> None:
    """Raises `RunError` if the run has no such events; reads one column of a long log."""
    if part == "validation" and Config.read(Path(folder) / "config.yaml").training.refit:
        raise RunError(
            f"{folder}: the run was trained on its validation events too. Evaluate the test part, "
            "or train with `training.refit: false`."
        )
    path = _events_file(folder)
    try:
        parts = pyarrow.parquet.read_table(path, columns=["part"]).column("part").to_numpy()
    except Exception as error:  # whatever is wrong with the file
        raise damaged(Path(folder), error) from error
    if not (parts == _PARTS.index(part)).any():
        raise RunError(f"{folder}: the run's split (`{kind}`) has no {part} events, so there is nothing to evaluate.")


def _events_file(folder: str | Path) -> Path:
    path = Path(folder) / "events.parquet"
    if not path.exists():
        raise RunError(f"{folder}: the run was saved without its events.")
    return path


def write_split(path: Path, split: Split) -> None:
    """The events of all parts, as `read_split` reads them."""
    parts = [getattr(split, name) for name in _PARTS]
    columns = {
        "user_id": _encoded([part.users for part in parts]),
        "item_id": _encoded([part.items for part in parts]),
        "timestamp": np.concatenate([part.timestamps for part in parts]),
        "weight": np.concatenate([part.weights for part in parts]),
        "part": np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts]),
    }
    if all(part.ratings is not None for part in parts):
        columns["rating"] = np.concatenate([part.ratings for part in parts])
    with replacing(path) as file:
        pyarrow.parquet.write_table(pa.table(columns), file)


def _encoded(columns: Sequence[IdColumn]) -> pa.ChunkedArray:
    """Columns of ids, one behind the other."""
    return pa.chunked_array([pa.DictionaryArray.from_arrays(each.codes, pa.array(each.names, pa.string())) for each in columns])


def data_mark(tables: ModelInputs, split: Split) -> str:
    """Tells data from other data: ids, features and events."""
    digest = hashlib.sha256()
    for part in (split.train, split.validation, split.test):
        for ids in (part.users.in_order(), part.items.in_order()):
            digest.update("\n".join(ids.names).encode() + ids.codes.tobytes())
        digest.update(part.timestamps.tobytes() + part.weights.tobytes())
    digest.update("\n".join(tables.item_ids).encode())
    for modality, media in (*tables.items.items(), *tables.users.items()):
        digest.update(modality.encode() + tables.encoders[modality][1].encode())
        digest.update(np.asarray(media.rows).tobytes())
    return digest.hexdigest()


def write_run_sums(folder: Path, weights: Path) -> None:
    """Writes `sums.json` of a run whose weights are still in another file."""
    found = sorted(path for pattern in _KEPT for path in folder.glob(pattern) if path.is_file())
    write_sums(folder / SUMS, {WEIGHTS: weights, **{path.relative_to(folder).as_posix(): path for path in found}})


def damaged(folder: Path, error: Exception | str) -> RunError:
    """What is raised for a file of a run that cannot be read, or is not what was written."""
    reason = error if isinstance(error, str) else first_line(error)
    remedy = "Train it again with --overwrite, or take a copy of it."
    if reason.startswith("config.yaml "):
        remedy = f"It is damaged, or was edited: if that is meant, remove its entry from {SUMS}."
    return RunError(f"{folder}: the run is damaged ({reason}). {remedy}")


@contextlib.contextmanager
def using(folder: str | Path) -> Iterator[None]:
    """A run that is read for the length of the block. Raises `RunError` where a training writes it."""
    folder = Path(folder)
    if not folder.is_dir():
        yield  # which others tell
        return
    busy = RunError(f"{folder}: another process is training this run. Wait for it, or take another run.")
    with held(folder, busy, shared=True):
        yield


@contextlib.contextmanager
def training_in(folder: Path) -> Iterator[None]:
    """A run folder that is written for the length of the block; made if missing.

    Raises:
        RunError: another process trains, reads or evaluates it.
        WriteError: it cannot be written.
    """
    new = not folder.exists()
    make_folder(folder)
    busy = RunError(f"{folder}: another process is using this run folder. Wait for it, or give another --out.")
    with held(folder, busy):
        try:
            yield
        finally:
            if new:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # where nothing was written
