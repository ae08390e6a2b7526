"""What users took, as an export keeps it."""

from __future__ import annotations

import numpy as np

from mmtfrs.model_inputs.item_lists import ItemLists


def _users(taken):
    return [items.tolist() for items in taken]


def test_by_hand():
    # User 2 took 5 at 1, 3 and then 4 at 7 (a tie keeps the log's order); user 1 took 9; user 3 nothing; row 0 is nobody.
    taken = ItemLists.of_log(np.array([2, 1, 2, 0, 2, 1]), np.array([3, 9, 4, 8, 5, 0]), np.array([7, 2, 7, 1, 1, 3]), 3)
    assert _users(taken) == [[], [9], [5, 3, 4], []]
    assert taken.items.dtype == np.int32 and taken.starts.dtype == np.int64
    gone = np.arange(10)
    gone[[3, 9]] = 0, 1  # item 3 is gone, item 9 stands in row 1 now
    assert _users(taken.of_items(gone)) == [[], [1], [5, 4], []]
    assert _users(taken.take(np.array([0, 2, 0, 3, 1]))) == [[], [5, 3, 4], [], [], [9]]
    assert _users(ItemLists.nothing(3)) == [[], [], []]
    assert taken.newest(2).tolist() == [[0, 0], [0, 9], [3, 4], [0, 0]] and taken.newest(0).shape == (4, 0)
    assert _users(taken.kept(taken.items != 3)) == [[], [9], [5, 4], []]
    assert taken.owners.tolist() == [1, 2, 2, 2] and taken.counts.tolist() == [0, 1, 3, 0]
    assert _users(ItemLists.of(_users(taken))) == _users(taken)
