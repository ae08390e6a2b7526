"""Cutting a log into training, validation and test events.

The validation part is always cut from the training side by the same rule, so that it stands to the training events as
the test part stands to both.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from mmtfrs.errors import DataError, nearest

if TYPE_CHECKING:
    from mmtfrs.data.events import Events

KINDS = ("time", "user", "random", "none")


@dataclasses.dataclass(frozen=True)
class Split:
    """Three parts of one log. `validation.known` is `train`; `test.known` is `train` and `validation`."""

    kind: str
    train: Events
    validation: Events
    test: Events

    @property
    def known(self) -> Events:
        """All events before the test part. Raises `DataError` if this does not say what it knows."""
        if self.test.known is None:
            raise DataError("the test part of the split does not say which events came before it: `Events.split` does.")
        return self.test.known


def split_events(events: Events, kind: str, validation_share: float, test_share: float, seed: int) -> Split:
    """Cuts a log.

    Args:
        events: the whole log.
        kind: `time`: the newest events of the whole log are the test part (equal timestamps stay together).
            `user`: each user's newest event is the test part, the one before it the validation part; users with fewer than
            three events (two, without a test part) train only; of one timestamp, the last in the log is the newest. `random`:
            seeded. `none`: every event trains.
        validation_share, test_share: shares of all events, for `time` and `random`.
        seed: for `random`.

    Raises:
        DataError: the kind is unknown, or a part that is asked for would leave nothing to train on.
    """
    if kind not in KINDS:
        raise DataError(f"`kind` must be one of {', '.join(KINDS)}. Received: {kind!r}.{nearest(kind, KINDS)}")
    if not 0 <= validation_share < 1 or not 0 <= test_share < 1 or validation_share + test_share >= 1:
        raise DataError(
            "`validation_share` and `test_share` must be in [0, 1) and leave something to train on. "
            f"Received: {validation_share}, {test_share}."
        )
    n = len(events)
    if kind == "none":
        part = np.zeros(n, np.int8)
    elif kind == "user":
        part = _by_user(events, validation_share > 0, test_share > 0)
    elif kind == "random":
        part = _cut(np.random.default_rng(seed).permutation(n), validation_share, test_share)
    else:
        part = _by_time(events.timestamps, validation_share, test_share)
    if not (part == 0).any():
        raise DataError(f"the split `{kind}` leaves no event to train on. Received: {n} events. Use --split none.")
    train = events.take(np.flatnonzero(part == 0))
    both = events.take(np.flatnonzero(part <= 1))
    return Split(
        kind, train, events.take(np.flatnonzero(part == 1), known=train), events.take(np.flatnonzero(part == 2), known=both)
    )


def _cut(order: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    n = len(order)
    test = round(n * test_share)
    validation = round(n * validation_share)
    part = np.zeros(n, np.int8)
    part[order[n - test :]] = 2
    part[order[n - test - validation : n - test]] = 1
    return part


def _by_time(timestamps: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    n = len(timestamps)
    part = np.zeros(n, np.int8)
    for label, share in ((1, validation_share + test_share), (2, test_share)):
        count = round(n * share)
        # A cut falls between two timestamps, never inside one: what happened at once is known at once.
        if count and (first := np.partition(timestamps, n - count)[n - count]) > timestamps.min():
            part[timestamps >= first] = label
    if n > 1 and test_share and not (part == 2).any():
        raise DataError(
            "a split by time needs timestamps that differ. Received: (nearly) all events at one timestamp. "
            "Use --split random or --split none."
        )
    return part


def _by_user(events: Events, validation: bool, test: bool) -> np.ndarray:
    part = np.zeros(len(events), np.int8)
    users = events.users.codes
    order = np.lexsort((events.timestamps, users))  # of one timestamp, in the order of the log
    last = np.append(users[order][1:] != users[order][:-1], True)
    ends = np.flatnonzero(last)
    counts = np.diff(np.append(-1, ends))
    if test:
        ends = ends[counts >= 3]
        part[order[ends]] = 2
        ends = ends - 1
    else:
        ends = ends[counts >= 2]
    if validation:
        part[order[ends]] = 1
    return part
