"""Popularity that fades."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs.model_inputs.popularity import FADES, best_fade, faded_counts, log_popularity


def test_by_hand():
    items, times = np.array([1, 2, 2, 1]), np.array([100, 200, 0, 200])
    assert faded_counts(items, times, 4, np.inf).tolist() == [0, 2, 2, 0]
    # Half-life of a quarter of 200 s: 100 s ago is a quarter, 200 s ago a sixteenth.
    np.testing.assert_allclose(faded_counts(items, times, 4, 0.25), [0, 1.25, 1 + 1 / 16, 0])
    assert faded_counts(items, np.full(4, 7), 4, 0.25).tolist() == [0, 2, 2, 0]  # all at once: nothing is old
    found = log_popularity(np.array([0.0, 3.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, [0, np.log(4) - np.log(8) / 2, np.log(2) - np.log(8) / 2, 0], atol=1e-6)
    assert not log_popularity(np.zeros(3)).any()


@pytest.mark.parametrize("moving", [False, True])
def test_the_half_life_is_what_the_newest_events_say(moving):
    """Where what is popular changes ten times in the log, old events say little; where it does not, they say as much."""
    rng = np.random.default_rng(0)
    times = np.arange(20_000)
    shares = rng.dirichlet(np.full(50, 0.3), 10 if moving else 1)
    items = np.concatenate([rng.choice(50, 2000, p=shares[block % len(shares)]) + 1 for block in range(10)])
    # The last change lies before the events that are held out.
    times[-4000:] += 1
    shown = np.concatenate([items[:16_000], items[-4000:-2000], items[-4000:-2000]]) if moving else items
    assert best_fade(shown, times, 51) in (FADES[3:] if moving else FADES[:1])
    # Held-out events that are spread over the whole log do not fade, however fast what is popular changes in it.
    rows = rng.permutation(20_000)
    assert best_fade(items[rows[2000:]], times[rows[2000:]], 51, items[rows[:2000]]) == np.inf
    assert best_fade(np.array([1]), np.array([5]), 2) == np.inf
    assert best_fade(np.array([1, 2]), np.array([5, 5]), 3) == np.inf
