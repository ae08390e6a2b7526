"""Which settings matter: how much worse a forest guesses the objective when one setting is shuffled."""

from __future__ import annotations

import itertools

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from tuning.space import Choice, Space
from tuning.trials import Row

_LEAST = 8  # completed trials; fewer say nothing


def positions(space: Space, rows: list[Row]) -> np.ndarray:
    """`[trials, settings]`: where each value stands between the ends of its range or in its list, from 0 to 1."""
    return np.array([[part.place(row.values[name]) for name, part in space] for row in rows])


def importance(space: Space, rows: list[Row]) -> dict[str, float]:
    """`{setting: share}`, summing to 1: permutation importance (Breiman 2001) in a forest of 300 trees over the completed
    trials; empty where these are too few or all alike."""
    if len(rows) < _LEAST:
        return {}
    columns, expand = [], []
    places = positions(space, rows)
    for number, (_, part) in enumerate(space):  # a choice without an order gets a column per value
        if isinstance(part, Choice) and not isinstance(part.values[0], int | float):
            steps = np.rint(places[:, number] * (len(part.values) - 1)).astype(int)
            columns.append(np.eye(len(part.values))[steps])
        else:
            columns.append(places[:, number : number + 1])
        expand.append(columns[-1].shape[1])
    scores = np.array([row.score for row in rows])
    inputs = np.concatenate(columns, axis=1)
    forest = RandomForestRegressor(300, min_samples_leaf=2, random_state=0).fit(inputs, scores)
    found = permutation_importance(forest, inputs, scores, n_repeats=20, random_state=0)
    ends = np.cumsum([0, *expand])
    sums = np.array([found.importances_mean[a:b].clip(0).sum() for a, b in itertools.pairwise(ends)])
    total = sums.sum()
    return {name: float(value / total) for (name, _), value in zip(space, sums, strict=True)} if total > 0 else {}
