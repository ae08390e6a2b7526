"""EASE: the linear item-item model that deep models have to beat."""

from __future__ import annotations

import numpy as np

from mmtfrs.models.histories import Histories

MAX_ITEMS = 20_000  # one item-item matrix of float64 is 3 GiB there, and its inversion takes minutes
PENALTIES = (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)


class EaseScorer:
    """`scores = x B`, where `B` predicts each column of the user-item matrix from all others by ridge regression.

    `B_ij = -P_ij / P_jj`, `B_jj = 0`, with `P = (X'X + penalty I)^-1` over the training log.

    Args:
        gram: `[N, N] float32`, X'X of the training log.
        penalty: of the regression.

    Reference: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, arXiv:1905.03375.
    """

    def __init__(self, gram: np.ndarray, penalty: float) -> None:
        self.penalty = penalty
        regularised = gram.astype(np.float64)
        diagonal = np.diag_indices(len(gram))
        regularised[diagonal] += penalty
        inverse = np.linalg.inv(regularised)
        weights = inverse / -np.diag(inverse)
        weights[diagonal] = 0.0
        self.weights = weights.astype(np.float32)

    def scores(self, user_ids: np.ndarray, histories: Histories) -> np.ndarray:
        return taken(user_ids, histories, len(self.weights)) @ self.weights


def gram_matrix(histories: Histories, users, items: int, chunk: int = 4096) -> np.ndarray:
    """`[N, N] float32`: how many of these users took both items."""
    gram = np.zeros((items, items), np.float32)
    for start in range(0, len(users), chunk):
        rows = taken(users[start : start + chunk], histories, items)
        gram += rows.T @ rows
    return gram


def taken(user_ids, histories: Histories, items: int) -> np.ndarray:
    """`[n, N] float32`: 1 where a user's history has the item."""
    rows = np.zeros((len(user_ids), items), np.float32)
    for row, user in enumerate(user_ids):
        rows[row, histories.past(user) - 1] = 1.0
    return rows
