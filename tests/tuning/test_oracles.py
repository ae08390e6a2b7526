"""The oracles without any training: a function stands for it, so that every kill can be tried."""

from __future__ import annotations

import keras_tuner
import pytest

from mmtfrs import Config
from tuning.job import METHODS
from tuning.oracles import COMPLETED, FAILED, RUNNING, make_oracle
from tuning.search_objective import Objective
from tuning.space import Space

GOAL = Objective("recall@20", "max")
SPACE = {"model.dropout": {"min": 0.0, "max": 0.9}, "model.embedding_dim": [8, 16, 32], "model.fusion": ["concat", "gated"]}


def _oracle(method, folder, trials=14):
    space = Space(Config(tuning={"space": SPACE, "defaults": False}))
    oracle = make_oracle(method, space, GOAL, trials, 9, 5)
    oracle._set_project_dir(str(folder), "trials")
    return oracle


def _score(values):
    fusion = 0.1 if values["model.fusion"] == "gated" else 0.0
    return 1.0 - (values["model.dropout"] - 0.3) ** 2 + fusion + 0.01 * values.get("tuner/epochs", 0)


def _end(oracle, trial, failed=False):
    if failed:
        trial.status = FAILED
    else:
        oracle.update_trial(trial.trial_id, {GOAL.name: _score(trial.hyperparameters.values)})
        trial.status = COMPLETED
    oracle.end_trial(trial)


def _run(method, folder, reload_after=(), trials=14, failing=()):
    """The values of all trials; a new oracle takes over after some of the steps, as after a kill."""
    oracle, story, step = _oracle(method, folder, trials), {}, 0

    def perhaps(oracle, step):
        if step not in reload_after:
            return oracle
        again = _oracle(method, folder, trials)
        again.reload()
        return again

    while True:
        trial = oracle.create_trial("tuner0")
        if trial.status != RUNNING:
            return story
        step += 1
        after = perhaps(oracle, step)
        if after is not oracle:  # killed while the trial ran: it is given out again
            oracle = after
            again = oracle.create_trial("tuner0")
            assert again.trial_id == trial.trial_id
            trial = again
        _end(oracle, trial, failed=int(trial.trial_id) in failing)
        story[trial.trial_id] = trial.hyperparameters.values
        step += 1
        oracle = perhaps(oracle, step)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_is_killed_at_every_step_is_the_search_that_was_not(method, tmp_path):
    trials = 8 if method == "bayesian" else 14
    whole = _run(method, tmp_path / "whole", (), trials, failing=(3, 4))
    killed = _run(method, tmp_path / "killed", range(1, 100), trials, failing=(3, 4))
    assert len(whole) == trials and killed == whole
    assert next(iter(whole.values()))["model.dropout"] == 0.2  # the first trial is the default


def test_hyperband_lets_the_best_third_go_on(tmp_path):
    """Max 9 epochs, factor 3: the first bracket begins with 9 trials of one epoch; 3 of them go on to 3 epochs, 1 to 9."""
    story = _run("hyperband", tmp_path)
    rounds = {
        number: {
            name: values for name, values in story.items() if values["tuner/bracket"] == 2 and values["tuner/round"] == number
        }
        for number in (0, 1, 2)
    }
    assert {values["tuner/epochs"] for values in rounds[0].values()} == {1}
    assert {values["tuner/epochs"] for values in rounds[1].values()} == {3}
    assert [len(rounds[number]) for number in range(3)] == [9, 3, 1] and {v["tuner/epochs"] for v in rounds[2].values()} == {9}
    for number in (0, 1):
        best = sorted(rounds[number], key=lambda name: -_score(rounds[number][name]))
        went_on = [values["tuner/trial_id"] for values in rounds[number + 1].values()]
        assert set(went_on) == set(best[: len(went_on)])


@pytest.mark.long
def test_bayesian_search_finds_more_than_random(tmp_path):
    best = {method: max(map(_score, _run(method, tmp_path / method, trials=12).values())) for method in ("random", "bayesian")}
    assert best["bayesian"] >= best["random"] and best["bayesian"] > 1.095  # the top is 1.1


def test_a_trial_that_was_written_before_the_oracle_knew_is_made_again(tmp_path):
    """The kill between two files: the trial's is there, the oracle's is the old one."""
    oracle = _oracle("random", tmp_path)
    _end(oracle, oracle.create_trial("tuner0"))
    before = (tmp_path / "trials" / "oracle.json").read_text()
    second = oracle.create_trial("tuner0")
    (tmp_path / "trials" / "oracle.json").write_text(before)
    again = _oracle("random", tmp_path)
    again.reload()
    trial = again.create_trial("tuner0")
    assert trial.trial_id == second.trial_id and trial.hyperparameters.values == second.hyperparameters.values


def test_the_trial_of_a_worker_that_is_gone_goes_to_the_next(tmp_path):
    oracle = _oracle("random", tmp_path)
    lost, other = oracle.create_trial("a"), oracle.create_trial("b")
    assert oracle.give_up("a") == lost.trial_id and oracle.give_up("nobody") is None
    _end(oracle, other)
    taken = oracle.create_trial("b")
    assert taken.trial_id == lost.trial_id
    _end(oracle, taken)
    late = keras_tuner.engine.trial.Trial(lost.hyperparameters, lost.trial_id, FAILED)
    oracle.end_trial(late)  # the lost worker was only slow
    assert oracle.trials[lost.trial_id].status == COMPLETED and oracle.end_order == [other.trial_id, lost.trial_id]


def test_ten_failures_in_a_row_end_a_search(tmp_path):
    oracle = _oracle("random", tmp_path)
    with pytest.raises(RuntimeError, match="consecutive failures"):
        for _ in range(11):
            _end(oracle, oracle.create_trial("tuner0"), failed=True)
    assert len(oracle.end_order) == 10
