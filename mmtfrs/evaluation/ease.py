"""EASE: the linear item-item model that deep models have to beat."""

from __future__ import annotations

import numpy as np

from mmtfrs.models.histories import Pasts

MAX_ITEMS = 20_000  # one item-item matrix of float64 is 3 GiB there, and its inversion takes minutes
WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the content, beside the Gram matrix
PENALTIES = (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)


class EaseScorer:
    """`scores = x B`, where `B` predicts each column of the user-item matrix from all others by ridge regression.

    `B_ij = -P_ij / P_jj`, `B_jj = 0`, with `P = (X'X + penalty I)^-1` over the training log.

    Args:
        gram: `[N, N] float32`, X'X of the training log.
        penalty: of the regression.
        content: `[N, N]` cosines between what the items are, or None.
        weight: of these beside the Gram matrix, as if users had taken items because they are alike.

    Reference: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, arXiv:1905.03375; with content as in
    Jeunen, Van Balen and Goethals, Closed-Form Models for Collaborative Filtering with Side-Information, RecSys 2020.
    """

    def __init__(self, gram: np.ndarray, penalty: float, content: np.ndarray | None = None, weight: float = 0.0) -> None:
        self.penalty, self.weight = penalty, weight
        regularised = gram.astype(np.float64)
        if content is not None:
            regularised += weight * content
        diagonal = np.diag_indices(len(gram))
        regularised[diagonal] += penalty
        inverse = np.linalg.inv(regularised)
        weights = inverse / -np.diag(inverse)
        weights[diagonal] = 0.0
        self.weights = weights.astype(np.float32)

    def scores(self, user_ids: np.ndarray, pasts: Pasts) -> np.ndarray:
        return taken(pasts, len(self.weights)) @ self.weights


def gram_matrix(pasts: Pasts, items: int, chunk: int = 4096) -> np.ndarray:
    """`[N, N] float32`: how many of these users took both items."""
    gram = np.zeros((items, items), np.float32)
    for start in range(0, len(pasts), chunk):
        rows = taken(pasts[start : start + chunk], items)
        gram += rows.T @ rows
    return gram


def taken(pasts: Pasts, items: int) -> np.ndarray:
    """`[n, N] float32`: 1 where a user took the item."""
    rows = np.zeros((len(pasts), items), np.float32)
    for row, past in enumerate(pasts):
        rows[row, past - 1] = 1.0
    return rows
