"""Ranking metrics of many lists at many k, all from one pass over the hits.

Definitions follow Herlocker et al., Evaluating Collaborative Filtering Recommender Systems (TOIS 2004), and for NDCG Jarvelin
and Kekalainen (TOIS 2002), with binary relevance; each is the mean over users with at least one relevant item.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranking_metrics(hits: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Per-list metrics.

    Args:
        hits: `[n, K] bool`, whether the item at each rank is relevant; K may be less than a k, then the rest counts as
            misses.
        relevant: `[n] int`, number of relevant items of each list, at least 1.
        ks: list lengths.

    Returns:
        `{metric@k: [n] float64}`: recall (hits / relevant), precision (hits / k), f1 of these two, hit_rate, ndcg
        (ideal list cut at k), mrr (1 / rank of the first hit, 0 beyond k), map (average precision over min(k, relevant)).
    """
    hits = np.asarray(hits, np.float64)
    relevant = np.asarray(relevant, np.float64)
    if hits.shape[1] < max(ks):
        hits = np.pad(hits, ((0, 0), (0, max(ks) - hits.shape[1])))
    ranks = np.arange(1, hits.shape[1] + 1)
    count = hits.cumsum(axis=1)
    dcg = (hits / np.log2(ranks + 1)).cumsum(axis=1)
    ideal = (1.0 / np.log2(ranks + 1)).cumsum()
    precision_sum = (hits * count / ranks).cumsum(axis=1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    result = {}
    for k in ks:
        found = count[:, k - 1]
        best = np.minimum(relevant, k)
        recall, precision = found / relevant, found / k
        both = recall + precision
        result[f"recall@{k}"] = recall
        result[f"precision@{k}"] = precision
        result[f"f1@{k}"] = 2 * recall * precision / np.where(both > 0, both, 1.0)
        result[f"hit_rate@{k}"] = (found > 0).astype(np.float64)
        result[f"ndcg@{k}"] = dcg[:, k - 1] / ideal[best.astype(int) - 1]
        result[f"mrr@{k}"] = np.where(first <= k, 1.0 / first, 0.0)
        result[f"map@{k}"] = precision_sum[:, k - 1] / best
    return result


class ListMetrics:
    """What the lists are like whoever they are for: coverage, diversity and novelty at several k.

    Args:
        ks: list lengths.
        counts: `[N]`, training events per item.
        content: `[N, d]` unit vectors of what the items are, or None if nothing is known of it.
    """

    def __init__(self, ks: Sequence[int], counts: np.ndarray, content: np.ndarray | None) -> None:
        self.ks = tuple(ks)
        # One event more for everybody, so that an item without any has a finite surprise.
        self._surprise = -np.log2((counts + 1.0) / (counts.sum() + len(counts)))
        self._content = content
        self._shown = {k: np.zeros(len(counts), bool) for k in self.ks}
        self._sums = {k: np.zeros(2) for k in self.ks}
        self._lists = 0

    def update(self, lists: np.ndarray) -> None:
        """Adds `[n, K]` item indices, best first; -1 where a list has ended."""
        self._lists += len(lists)
        for k in self.ks:
            part = lists[:, :k]
            there = part >= 0
            length = np.maximum(there.sum(axis=1), 1)
            self._shown[k][part[there]] = True
            self._sums[k][0] += (np.where(there, self._surprise[part], 0.0).sum(axis=1) / length).sum()
            if self._content is not None and k > 1:
                vectors = self._content[part] * there[..., None]
                total = vectors.sum(axis=1)
                own = (vectors**2).sum(axis=(1, 2))
                pairs = np.maximum(length * (length - 1), 1)
                self._sums[k][1] += (1.0 - ((total**2).sum(axis=1) - own) / pairs).sum()

    def result(self) -> dict[str, float]:
        """`coverage@k` (share of the catalog in any list), `novelty@k` (mean -log2 of popularity, bits) and, where
        content is known, `diversity@k` (mean 1 - cosine over pairs of a list)."""
        result = {}
        for k in self.ks:
            result[f"coverage@{k}"] = float(self._shown[k].mean())
            result[f"novelty@{k}"] = float(self._sums[k][0] / max(self._lists, 1))
            if self._content is not None and k > 1:
                result[f"diversity@{k}"] = float(self._sums[k][1] / max(self._lists, 1))
        return result
