"""Training a run folder, resumed where it was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmtfrs.config.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.splits import Split
from mmtfrs.encoders.names import AUTO
from mmtfrs.errors import RunError
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.run import end_run, load_own_run, start_run
from mmtfrs.models.run_folder import WEIGHTS, data_mark, read_facts, read_history, training_in
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.training.finetune import check_finetune, finetune
from mmtfrs.training.fit import fit_to_best
from mmtfrs.training.memory import tell_memory
from mmtfrs.utils.files import remove, write_json, writing


def train(
    config: Config,
    catalog: Catalog,
    features: Features,
    split: Split,
    out: str | Path,
    overwrite: bool = False,
    progress: bool = True,
    store: str | Path | None = None,
) -> tuple[TwoTower, list[dict[str, float]]]:
    """Trains into a run folder; the same call goes on where a killed one ended, and does nothing if it had ended.

    Args:
        config, catalog, features, split: what is trained, and on what.
        out: the run folder.
        overwrite: replace a run that is there.
        progress: print a line per epoch on standard error.
        store: the feature store, which a fine-tuning refreshes; `features` beside the run if None.

    Returns:
        The model at its best epoch, and the logs of every epoch.

    Raises:
        RunError: the folder holds a run of other settings, data or version, is no run, or another process uses it.
        WriteError: it cannot be written.
    """
    out = Path(out)
    with training_in(out):
        return _train(config, catalog, features, split, out, overwrite, progress, Path(store or out.parent / "features"))


def _train(
    config: Config, catalog: Catalog, features: Features, split: Split, out: Path, overwrite: bool, progress: bool, store: Path
) -> tuple[TwoTower, list[dict[str, float]]]:
    if overwrite:
        _empty(out)
    config = config.replace(encoders=_chosen(config, features))
    known = split.test.known  # what `evaluate` takes for known, and so what an export answers by
    tables = ModelInputs.build(config, catalog, features, split.train, known)
    mark = data_mark(tables, split)
    if any(out.iterdir()):
        _check_same(out, config, mark)
    if (out / WEIGHTS).exists():
        _tidy(out)  # what a kill at the very end has left
        model = load_own_run(out, trust_code=True)  # it names what the settings do
        model.keep_encoders(features.encoders)
        return model, read_history(out) or []

    def tune(trained: TwoTower, chosen_on: Split) -> TwoTower:
        return finetune(trained, catalog, chosen_on, features, out, store, progress)

    model, history = fit_to_best(
        _start(config, tables, features, split, out, mark),  # kept by nobody, for other models take its place
        split,
        out,
        progress,
        tune=tune if config.training.finetune.blocks else None,
    )
    start_run(model, out, split, data=mark)  # the tables may be others now, and what has lain there since the start is not read
    write_json(out / "history.json", history)
    end_run(model, out)
    _tidy(out)
    return model, history


def _tidy(out: Path) -> None:
    """Removes the checkpoints of a run that has ended."""
    for name in ("training", "bag", "refit"):
        remove(out / name)


def _empty(out: Path) -> None:
    """Removes a run, first what makes it a finished one; the folder stays, for it is locked."""
    with writing(out):
        for path in sorted(out.iterdir(), key=lambda each: each.name != WEIGHTS):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _chosen(config: Config, features: Features) -> dict[str, str]:
    """What `auto` was, so that the run is the same everywhere."""
    made = {modality: encoder.name for modality, encoder in features.encoders.items()}
    return {modality: name for modality, name in made.items() if getattr(config.encoders, modality).lower() == AUTO}


def _start(config: Config, tables: ModelInputs, features: Features, split: Split, out: Path, mark: str) -> TwoTower:
    """An untrained model, with its run folder."""
    model = TwoTower(config, tables=tables)
    model.keep_encoders(features.encoders)
    tell_memory(model)
    if config.training.finetune.blocks:
        check_finetune(model)
    if not (out / "run.json").exists():
        start_run(model, out, split, data=mark)
    return model


def _check_same(out: Path, config: Config, mark: str) -> None:
    if not (out / "run.json").exists() and not (out / "tables").exists():
        raise RunError(f"{out}: the folder is not empty and holds no run. Give another --out.")
    if not (out / "run.json").exists():
        return  # killed before the run was whole: it is written again
    facts = read_facts(out)
    different = Config.read(out / "config.yaml").differences(config)
    if different:
        raise RunError(
            f"{out}: holds a run of other settings. Give another --out, or --overwrite. Differences (there -> now):\n  "
            + "\n  ".join(different)
        )
    if facts.get("data") != mark:
        raise RunError(f"{out}: holds a run on other data. Give another --out, or --overwrite.")
