"""Whether one model is better than another, or only luckier with its users."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


@dataclasses.dataclass(frozen=True)
class Difference:
    """Attributes:

    metric: its name.
    first, second: means over the users.
    low, high: 95 % interval of `second - first`.
    p_value: two-sided, of no difference.
    users: how many.
    """

    metric: str
    first: float
    second: float
    low: float
    high: float
    p_value: float
    users: int


def paired_bootstrap(metric: str, first: np.ndarray, second: np.ndarray, rounds: int = 10_000, seed: int = 0) -> Difference:
    """Resamples users, the same ones for both models.

    Args:
        metric: name, for the result.
        first, second: `[n]` the metric of each user.
        rounds: resamples.
        seed: of the resampling.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; in retrieval Smucker, Allan and Carterette, CIKM
    2007.
    """
    gain = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(rounds)
    step = max(1, min(rounds, 20_000_000 // len(gain)))
    for start in range(0, rounds, step):
        count = min(step, rounds - start)
        means[start : start + count] = gain[rng.integers(0, len(gain), (count, len(gain)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    # The share of resamples on the other side of nothing; one is always counted, so that p is never 0.
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2.0 * (tail + 1) / (rounds + 1))
    return Difference(metric, float(np.mean(first)), float(np.mean(second)), float(low), float(high), p_value, len(gain))


def mean_interval(values: ArrayLike) -> tuple[float, float]:
    """Mean of a few runs, and half the width of its 95 % interval (Student's t)."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    t = stdtrit(len(values) - 1, 0.975)
    return float(values.mean()), float(t * values.std(ddof=1) / np.sqrt(len(values)))
