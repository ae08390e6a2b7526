"""Nearest neighbors by content: what needs no training at all."""

from __future__ import annotations

import numpy as np

from mmtfrs.evaluation.ease import taken
from mmtfrs.model_inputs.item_lists import ItemLists


class ItemKNNScorer:
    """The sum, over the items that a user took, of the cosine between their media and the candidate's; only each item's
    nearest neighbors count.

    Args:
        content: `[N, d]` unit vectors of what the items are.
        neighbors: kept of each item.

    Reference: Sarwar et al., Item-Based Collaborative Filtering, WWW 2001, with content for ratings.
    """

    def __init__(self, content: np.ndarray, neighbors: int = 50) -> None:
        self.content = np.asarray(content, np.float32)
        self.neighbors = min(neighbors, len(content) - 1)

    def scores(self, user_ids: np.ndarray, pasts: ItemLists) -> np.ndarray:
        known = taken(pasts, len(self.content))
        used = np.flatnonzero(known.getnnz(axis=0))
        # Only rows of items that somebody here took are needed.
        similar = self.content[used] @ self.content.T
        similar[np.arange(len(used)), used] = -np.inf
        if 0 < self.neighbors < similar.shape[1] - 1:
            bar = np.partition(similar, -self.neighbors, axis=1)[:, -self.neighbors, None]
            similar[similar < bar] = 0.0
        similar[np.isinf(similar)] = 0.0
        return known[:, used] @ np.maximum(similar, 0.0)
