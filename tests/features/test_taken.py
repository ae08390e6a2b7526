"""What users took, as an export keeps it."""

from __future__ import annotations

import numpy as np

from mmtfrs.model_inputs.taken_items import TakenItems


def _users(taken):
    return [taken.items[start:stop].tolist() for start, stop in zip(taken.starts[:-1], taken.starts[1:], strict=True)]


def test_by_hand():
    # User 2 took 5 at 1, 3 and then 4 at 7 (a tie keeps the log's order); user 1 took 9; user 3 nothing; row 0 is nobody.
    taken = TakenItems.of(np.array([2, 1, 2, 0, 2, 1]), np.array([3, 9, 4, 8, 5, 0]), np.array([7, 2, 7, 1, 1, 3]), 3)
    assert _users(taken) == [[], [9], [5, 3, 4], []]
    assert taken.items.dtype == np.int32 and taken.starts.dtype == np.int64
    gone = np.arange(10)
    gone[[3, 9]] = 0, 1  # item 3 is gone, item 9 stands in row 1 now
    assert _users(taken.of_items(gone)) == [[], [1], [5, 4], []]
    assert _users(taken.of_users(np.array([2, 0, 3, 1]))) == [[], [5, 3, 4], [], [], [9]]
    assert _users(TakenItems.nothing(2)) == [[], [], []]
