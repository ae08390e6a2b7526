"""EASE: the linear item-item model that deep models have to beat."""

from __future__ import annotations

import time

import numpy as np
from scipy.linalg import lapack
from scipy.sparse import csr_matrix

from mmtfrs.model_inputs.item_lists import ItemLists

MAX_ITEMS = 20_000  # one item-item matrix of float64 is 3 GiB there
_SAMPLE = 1500  # items of the matrix by which the time of a larger one is told
CONTENT_WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the content, beside the Gram matrix
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
        regularised = gram.astype(np.float64, order="F")
        if content is not None:
            regularised += weight * content
        diagonal = np.diag_indices(len(gram))
        regularised[diagonal] += penalty
        self.weights = _inverse(regularised)
        self.weights /= -np.diag(self.weights)
        self.weights[diagonal] = 0.0

    def scores(self, user_ids: np.ndarray, pasts: ItemLists) -> np.ndarray:
        return taken(pasts, len(self.weights)) @ self.weights


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """`[N, N] float32` of a symmetric, positive definite `[N, N] float64`, which is lost; by Cholesky, an eighth of the work of
    inverting any matrix."""
    factor, failed = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    half, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse = np.ascontiguousarray(half, np.float32)
    for row in range(1, len(inverse)):
        inverse[:row, row] = inverse[row, :row]
    return inverse


def inversion_seconds(items: int) -> float:
    """About how long `EaseScorer` takes on this machine, by the time of a smaller one and the cube of its size."""
    spent = []
    for _ in range(2):  # the first one wakes threads
        start = time.perf_counter()
        _inverse(np.eye(_SAMPLE, order="F"))
        spent.append(time.perf_counter() - start)
    return min(spent) * (items / _SAMPLE) ** 3


def gram_matrix(pasts: ItemLists, items: int) -> np.ndarray:
    """`[N, N] float32`: how many of these users took both items."""
    rows = taken(pasts, items)
    return (rows.T @ rows).toarray()


def taken(pasts: ItemLists, items: int) -> csr_matrix:
    """`[n, N] float32`: 1 where a user took the item."""
    rows = csr_matrix((np.ones(len(pasts.items), np.float32), pasts.items - 1, pasts.starts), (len(pasts), items))
    rows.sum_duplicates()
    rows.data[:] = 1.0
    return rows
