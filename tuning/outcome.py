"""The winner of a search: its settings as a config, and what it is worth over several seeds, beside the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmtfrs.cli.console import keep, note
from mmtfrs.config.config import Config
from mmtfrs.errors import TuningError
from mmtfrs.evaluation.significance import mean_interval
from mmtfrs.utils.files import make_folder, write_json
from tuning.job import Job
from tuning.process import read_json, read_result, run_trial, write_spec
from tuning.search_objective import trial_config
from tuning.trials import Trials

BEST = "best_config.yaml"


def best_config(folder: Path, trials: Trials) -> Config:
    """The settings of the best trial, as they would be given to `mmtfrs train`.

    Raises:
        TuningError: no trial was completed.
    """
    leaders = trials.leaders()
    if not leaders:
        failed = [row.note for row in trials.rows() if row.status == "failed"]
        raise TuningError(f"{folder}: no trial was completed." + (f" The last failed: {failed[-1]}" if failed else ""))
    space = Job.read(folder).space()
    try:  # no more than the space has, whatever a trial's folder says
        return space.config({name: part.value(part.code(leaders[0].values[name])) for name, part in space})
    except (KeyError, ValueError):
        raise TuningError(f"{folder}: trial {leaders[0].id} is none of this search. Remove its folder.") from None


def write_best(folder: Path, trials: Trials) -> Path:
    """Writes `best_config.yaml`; see `best_config`."""
    best_config(folder, trials).write(folder / BEST)
    return folder / BEST


def confirm(folder: Path, trials: Trials, seeds: int) -> dict[str, Any]:
    """Trains winner and default over several seeds; only then do both meet the test part, once.

    What was trained is kept, in `final`, and not trained again for the same winner.

    Returns:
        `{"seeds": n, "validation": {"winner": {"values", "mean", "half", "text"}, "default": ...}, "test": ...}` with half of a
        95 % interval over the seeds; `better` is true where the winner's validation interval lies above the default's.

    Raises:
        TuningError: a training failed.
    """
    job = Job.read(folder)
    goal = job.goal()
    contestants = {"winner": best_config(folder, trials), "default": job.config.replace(tuning={"space": {}, "defaults": True})}
    found: dict[str, dict[str, list[float]]] = {part: {name: [] for name in contestants} for part in ("validation", "test")}
    for seed in range(seeds):
        for name, config in contestants.items():
            trial = trial_config(config, goal).replace(seed=job.config.seed + seed)
            result = _train(folder / "final" / f"{name}-{seed}", trial, folder / "data")
            found["validation"][name].append(result["metrics"][goal.name])
            if goal.name in result["test"]["model"]:
                found["test"][name].append(result["test"]["model"][goal.name])
            note(f"{name}, seed {trial.seed}: validation {goal.name} {found['validation'][name][-1]:.4f}")
    outcome: dict[str, Any] = {"seeds": seeds, "trial": trials.leaders()[0].id}
    for part, values in found.items():
        outcome[part] = {name: _summary(each) for name, each in values.items()}
    ends = [outcome["validation"][name] for name in ("winner", "default")]
    sign = 1.0 if goal.direction == "max" else -1.0
    outcome["better"] = seeds > 1 and sign * (ends[0]["mean"] - ends[1]["mean"]) > ends[0]["half"] + ends[1]["half"]
    keep(lambda: write_json(folder / "outcome.json", outcome))
    return outcome


def _summary(values: list[float]) -> dict[str, Any]:
    if not values:
        return {"values": [], "mean": None, "half": None, "text": "not measured"}
    mean, half = mean_interval(values)
    half = None if half != half else half
    return {"values": values, "mean": mean, "half": half, "text": f"{mean:.4f}" + ("" if half is None else f" ± {half:.4f}")}


def _train(folder: Path, config: Config, data: Path) -> dict:
    result = read_result(folder)
    if result is not None:
        spec = read_json(folder / "spec.json")
        if not Config(**spec["config"]).differences(config):
            return result
        (folder / "result.json").unlink()
    make_folder(folder)
    write_spec(folder, config, {}, data, test=True)
    try:
        return run_trial(folder)
    except TuningError as error:
        raise TuningError(f"{folder}: {error}") from None
