"""How popular each item is today: events that fade with time, and how fast they should."""

from __future__ import annotations

import numpy as np

FADES = (np.inf, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625)  # half-lives tried, as shares of the log's time
_HELD = 0.1  # newest share of the events that the choice is made by
_SMOOTH = 1.0  # events that every item is given beside its own


def faded_counts(items: np.ndarray, timestamps: np.ndarray, size: int, fade: float) -> np.ndarray:
    """`[n]` item rows and seconds -> `[size] float64`: events per item, each halved for every half-life before the last one.

    Args:
        items: of each event.
        timestamps: of each event.
        size: number of rows.
        fade: the half-life, as a share of the time between first and last event; infinity: events do not fade.
    """
    span = float(timestamps.max() - timestamps.min()) if len(timestamps) else 0.0
    weights = None
    if np.isfinite(fade) and span > 0:
        weights = 0.5 ** ((timestamps.max() - timestamps) / (fade * span))
    return np.bincount(items, weights, size)


def log_popularity(counts: np.ndarray) -> np.ndarray:
    """`[N + 1]` (faded) events per item row -> `[N + 1] float32`: their logarithm, 0 in the mean of the items that have any.

    An item without an event has 0, as much as the mean: it starts from what else is known of it.
    """
    logs = np.log(counts + _SMOOTH)
    there = counts > 0
    there[0] = False
    return np.where(there, logs - logs[there].mean() if there.any() else 0.0, 0.0).astype(np.float32)


def best_fade(items: np.ndarray, timestamps: np.ndarray, size: int) -> float:
    """The half-life under which the older events say best which items the newest ones are on.

    The longest one whose likelihood is within a standard error of the highest (Breiman et al., Classification and Regression
    Trees, 1984): what fades without need forgets.
    """
    order = np.argsort(timestamps, kind="stable")
    cut = len(order) - max(1, round(_HELD * len(order)))
    while 0 < cut < len(order) and timestamps[order[cut]] == timestamps[order[cut - 1]]:
        cut -= 1  # what happened at once is held at once
    if cut <= 0:
        return np.inf
    old, new = order[:cut], order[cut:]

    said = []  # the log-likelihood of each new event under each half-life
    for fade in FADES:
        counts = faded_counts(items[old], timestamps[old], size, fade)[1:] + 0.1
        said.append(np.log(counts / counts.sum())[items[new] - 1])
    best = max(said, key=np.mean)
    short = [(best - each).mean() <= (best - each).std() / np.sqrt(len(new)) for each in said]
    return FADES[short.index(True)]
