"""KerasTuner's oracles, made to survive a kill at any moment and workers that die.

What KerasTuner 1.4 lacks for that: its files are written in place; a trial file that is there before the oracle knows of it is
counted; the Bayesian oracle's random state is not kept; a worker that dies holds its trial, and the chief, for ever; a trial
that failed for what is around it has failed for good.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import trial as trials

from mmtfrs.utils.files import write_json
from tuning.search_objective import Objective
from tuning.space import Choice, Space
from tuning.surroundings import is_marked

RUNNING, COMPLETED, FAILED, INVALID = (
    getattr(trials.TrialStatus, name) for name in ("RUNNING", "COMPLETED", "FAILED", "INVALID")
)
FACTOR = 3  # of Hyperband: one of so many goes on to the next round


class _Durable:
    """Mixed into an oracle: see the file's docstring. The first set of values is always the default."""

    default: dict[str, Any]

    def save(self) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial) -> None:
        write_json(os.path.join(self._get_trial_dir(trial.trial_id), "trial.json"), trial.get_state())

    def reload(self) -> None:
        super().reload()
        # A trial that was written before the oracle was never begun: it is made again, with the same values.
        self.trials = {name: self.trials[name] for name in self.start_order}
        # KerasTuner writes that a trial has ended before it takes it off those that run.
        self._retry_queue = [name for name in self._retry_queue if name not in self.end_order]
        for name in reversed(self.end_order):  # the queue is taken from its end
            if self.trials[name].status != COMPLETED and is_marked(Path(self._get_trial_dir(name))):
                self.trials[name].status = RUNNING
                self._save_trial(self.trials[name])
                self._retry_queue.append(name)
        self.end_order = [name for name in self.end_order if name not in self._retry_queue]

    def _random_values(self) -> dict[str, Any] | None:
        if not self._duplicate(self.default):
            return dict(self.default)
        return super()._random_values()

    @keras_tuner.synchronized
    def end_trial(self, trial) -> None:
        # A worker that was given up may still come back with a result that another has brought meanwhile.
        if trial.trial_id not in self.end_order:
            super().end_trial(trial)
            self.save()

    @keras_tuner.synchronized
    def give_up(self, tuner_id: str) -> str | None:
        """A worker is gone: its trial, which is returned, is the next that is given out."""
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is None:
            return None
        self._retry_queue.append(trial.trial_id)
        self.save()
        return trial.trial_id


class RandomOracle(_Durable, keras_tuner.oracles.RandomSearchOracle):
    """Random search (Bergstra and Bengio 2012)."""


class BayesianOracle(_Durable, keras_tuner.oracles.BayesianOptimizationOracle):
    """Gaussian process with an upper confidence bound (Srinivas et al. 2010)."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Of the seed and the number of trials alone, so that an interrupted search goes on as it would have.
        self._random_state = np.random.RandomState([self.seed, len(self.trials)])
        return super().populate_space(trial_id)


class HyperbandOracle(_Durable, keras_tuner.oracles.HyperbandOracle):
    """Successive halving over brackets (Li et al. 2018)."""


def make_oracle(method: str, space: Space, objective: Objective, max_trials: int, epochs: int, seed: int):
    """The oracle of a method.

    Args:
        method: one of `METHODS`.
        space: what is searched.
        objective: what is looked for.
        max_trials: trials in all; Hyperband's rounds count as trials.
        epochs: the most that Hyperband trains a trial for.
        seed: fixes the choices.
    """
    shared = {
        "objective": keras_tuner.Objective(objective.name, objective.direction),
        "seed": seed,
        "hyperparameters": _hyperparameters(space),
        "allow_new_entries": False,
        "tune_new_entries": False,
        "max_consecutive_failed_trials": 10,
    }
    if method == "hyperband":
        oracle = HyperbandOracle(max_epochs=epochs, factor=FACTOR, hyperband_iterations=1000, **shared)
        oracle.max_trials = max_trials
    elif method == "bayesian":
        # KerasTuner's own default, three random points per dimension, would leave thirty trials all random.
        first = max(4, min(2 * len(space.parts), max_trials // 3))
        oracle = BayesianOracle(max_trials=max_trials, num_initial_points=first, **shared)
    else:
        oracle = RandomOracle(max_trials=max_trials, **shared)
    oracle.default = {name: space.parts[name].code(value) for name, value in space.default().items()}
    oracle.verbose = 0
    return oracle


def _hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    made, defaults = keras_tuner.HyperParameters(), space.default()
    for name, part in space:
        default = part.code(defaults[name])
        if isinstance(part, Choice):
            made.Choice(name, list(part.codes()), default=default)
        else:
            number = made.Int if part.whole else made.Float
            made_range = {"min_value": part.low, "max_value": part.high, "sampling": part.scale, "default": default}
            number(name, **made_range)
    return made


def values_of(space: Space, chosen: dict[str, Any]) -> dict[str, Any]:
    """An oracle's values -> settings by their names."""
    return {name: part.value(chosen[name]) for name, part in space}
