"""KerasTuner's loop with each trial in a process of its own: its memory returns, its crash is one failed trial."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FailedTrialError, FatalError

from mmtfrs.errors import TuningError, WriteError
from mmtfrs.utils.files import write_json, writing
from tuning.oracles import COMPLETED, FAILED, values_of
from tuning.process import read_result, run_trial, write_spec
from tuning.search_objective import Objective, trial_config
from tuning.space import Space
from tuning.trials import Trials

_GRACE = 5  # epochs, and finished trials, before a trial can be pruned


class BudgetSpent(Exception):
    """The hours of the search are over."""


class ProcessTuner(BaseTuner):
    """Runs the trials that an oracle makes up.

    Args:
        oracle: of `tuning.oracles`.
        space: what the values stand for.
        objective: what is looked for.
        folder: of the search; the trials' folders are `trials/trial_ID` in it.
        hours: of training in all, interrupted sessions included; None for no bound.
        minutes: of one trial; None for no bound.
        seen: called with the trials several times a second while one runs.
    """

    def __init__(
        self,
        oracle,
        space: Space,
        objective: Objective,
        folder: Path,
        hours: float | None = None,
        minutes: float | None = None,
        seen: Callable[[Trials], None] | None = None,
    ) -> None:
        self.space, self.objective, self.folder = space, objective, folder
        self.hours, self.minutes, self.seen = hours, minutes, seen
        self.trials = Trials(folder, objective)
        wanted = oracle.max_trials
        with contextlib.redirect_stdout(sys.stderr):  # it tells of a reload; standard output is for results
            super().__init__(oracle=oracle, directory=str(folder), project_name="trials")
        if not self._is_worker():
            oracle.max_trials = wanted  # a search that is gone on with may have got more
            self.save()

    def save(self) -> None:
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def pre_create_trial(self) -> None:
        # The loop asks again at once where an oracle has nothing to do yet.
        time.sleep(0.05)
        if self.hours is not None and self.trials.spent() > 3600 * self.hours:
            raise BudgetSpent

    def _try_run_and_update_trial(self, trial, *_, **__) -> None:
        """As KerasTuner's, which prints a traceback of each trial that fails, and takes any error here for a failure."""
        try:
            self._run_and_update_trial(trial)
            trial.status = COMPLETED
        except FailedTrialError as error:
            trial.status, trial.message = FAILED, str(error)

    def run_trial(self, trial) -> dict[str, float]:
        """Metrics of a finished trial; one that was finished before a kill is not run again.

        Raises:
            FailedTrialError: the process ended without a result, or was over its time.
            FatalError: a file cannot be written.
        """
        folder = Path(self.get_trial_dir(trial.trial_id))
        try:
            with writing(folder):
                return self._run(folder, trial)
        except WriteError as error:  # no fault of the trial: the search ends, and goes on with it when there is room
            raise FatalError from error

    def search(self) -> None:
        """KerasTuner's own. Raises `WriteError` where a file cannot be written."""
        try:
            super().search()
        except FatalError as error:
            raise error.__cause__ or error from None

    def _run(self, folder: Path, trial) -> dict[str, float]:
        result = read_result(folder)
        if result is None:
            self._begin(folder, trial)
            try:
                result = run_trial(folder, lambda: self._look(folder), self.minutes)
            except TuningError as error:
                raise FailedTrialError(str(error)) from None
        metrics = result["metrics"]
        value = metrics.get(self.objective.name)
        if value is None or not math.isfinite(value):
            raise FailedTrialError(f"the trial has no finite {self.objective.name}: {value}")
        return {self.objective.name: value}

    def _begin(self, folder: Path, trial) -> None:
        chosen = trial.hyperparameters.values
        values = values_of(self.space, chosen)
        config = trial_config(self.space.config(values), self.objective)
        before = f"trial_{chosen['tuner/trial_id']}" if "tuner/trial_id" in chosen else None
        if "tuner/epochs" in chosen:
            config = config.replace(training={"epochs": chosen["tuner/epochs"]})
        write_spec(
            folder,
            config,
            values,
            self.folder / "data",
            continues=before,
            keep="tuner/epochs" in chosen,
            bar=[] if "tuner/epochs" in chosen else self.trials.bar(_GRACE),
        )

    def _look(self, folder: Path) -> None:
        (folder / "alive").touch()
        if self.seen is not None:
            self.seen(self.trials)
