"""Splits by hand on small logs, and by their rules on large ones."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs import Events
from mmtfrs.errors import DataError


def _events(n=100, seed=0):
    rng = np.random.default_rng(seed)
    users = [f"u{value}" for value in rng.integers(0, 10, n)]
    return Events(users, [f"i{row}" for row in range(n)], rng.permutation(n))


def test_time():
    events = Events(["u"] * 10, list("abcdefghij"), [5, 3, 9, 1, 7, 0, 2, 8, 6, 4])
    split = events.split("time", 0.2, 0.2)
    # Ordered by time the items are f d g b j a i e h c: the last two test, the two before validate.
    assert sorted(split.test.item_ids) == ["c", "h"]
    assert sorted(split.validation.item_ids) == ["e", "i"]
    assert sorted(split.train.item_ids) == sorted("fdgbja")
    assert split.test.known.timestamps.max() < split.test.timestamps.min()
    assert sorted(split.validation.known.item_ids) == sorted(split.train.item_ids)
    assert len(split.test.known) == 8


def test_time_keeps_equal_timestamps_together():
    split = Events(["u"] * 10, list("abcdefghij"), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]).split("time", 0.0, 0.1)
    assert sorted(split.test.item_ids) == list("fghij")
    with pytest.raises(DataError, match="timestamps that differ"):
        Events(["u"] * 10, list("abcdefghij"), [7] * 10).split("time")


def test_user():
    events = Events(list("aaaabbbcc"), list("123456789"), [4, 3, 2, 1, 1, 2, 3, 1, 2])
    split = events.split("user")
    assert sorted(split.test.item_ids) == ["1", "7"]
    assert sorted(split.validation.item_ids) == ["2", "6"]
    assert sorted(split.train.item_ids) == ["3", "4", "5", "8", "9"]  # c has two events and trains only


def test_of_one_timestamp_the_last_in_the_log_is_the_newest():
    split = Events(list("uvuvuv"), list("abcdef"), [7] * 6).split("user", seed=3)
    assert sorted(split.test.item_ids) == ["e", "f"] and sorted(split.validation.item_ids) == ["c", "d"]


def test_random_is_seeded_and_disjoint():
    events = _events()
    first, again, other = (events.split("random", 0.1, 0.2, seed=seed) for seed in (1, 1, 2))
    assert first.test.item_ids.tolist() == again.test.item_ids.tolist() != other.test.item_ids.tolist()
    parts = [set(part.item_ids) for part in (first.train, first.validation, first.test)]
    assert [len(part) for part in parts] == [70, 10, 20] and len(set.union(*parts)) == 100
    whole = events.split("random", 0.1, 0.0)
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (90, 10, 0)


def test_none_trains_on_everything():
    split = _events().split("none")
    assert (len(split.train), len(split.validation), len(split.test)) == (100, 0, 0)


def test_bad_arguments():
    with pytest.raises(DataError, match=r"Received: 'tme'. Did you mean `time`\?"):
        _events().split("tme")
    with pytest.raises(DataError, match="leave something to train on"):
        _events().split("random", 0.5, 0.5)
    with pytest.raises(DataError, match="leaves no event to train on"):
        Events(["u"], ["i"], [1]).split("random", 0.0, 0.9)
    with pytest.raises(DataError, match="must be of one length"):
        Events(["u"], ["i", "j"], [1])
