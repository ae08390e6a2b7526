"""How popular each item is today: events that fade with time, and how fast they should."""

from __future__ import annotations

import numpy as np

FADES = (np.inf, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625)  # half-lives tried, as shares of the log's time
_HELD = 0.1  # newest share of the events that the choice is made by
_EVEN = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9)  # shares of a distribution that are the same for all items
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


def best_fade(items: np.ndarray, timestamps: np.ndarray, size: int, held: np.ndarray | None = None) -> float:
    """The half-life under which events say best which items held-out events are on.

    Args:
        items, timestamps, size: as in `faded_counts`.
        held: item rows of events that are not among these; None: the newest of these, which the older ones are to tell.

    Returns:
        A share of the time between first and last event; infinity: events do not fade.

    The longest one whose likelihood is within a standard error of the highest (Breiman et al., Classification and Regression
    Trees, 1984): what fades without need forgets.
    """
    if held is not None:
        return _likeliest(items, timestamps, size, held) if len(held) and len(items) else np.inf
    order = np.argsort(timestamps, kind="stable")
    cut = len(order) - max(1, round(_HELD * len(order)))
    while 0 < cut < len(order) and timestamps[order[cut]] == timestamps[order[cut - 1]]:
        cut -= 1  # what happened at once is held at once
    if cut <= 0:
        return np.inf
    return _likeliest(items[order[:cut]], timestamps[order[:cut]], size, items[order[cut:]])


def _likeliest(items: np.ndarray, timestamps: np.ndarray, size: int, held: np.ndarray) -> float:
    said = []  # the log-likelihood of each held event under each half-life
    for fade in FADES:
        shares = faded_counts(items, timestamps, size, fade)[1:]
        shares = (shares / shares.sum())[held - 1]
        # Each as even as is best for it: else what fades, and so counts less beside a constant, would win by being even.
        said.append(max((np.log((1.0 - even) * shares + even / (size - 1)) for even in _EVEN), key=np.mean))
    best = max(said, key=np.mean)
    short = [(best - each).mean() <= (best - each).std() / np.sqrt(len(held)) for each in said]
    return FADES[short.index(True)]
