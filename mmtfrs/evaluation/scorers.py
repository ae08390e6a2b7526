"""Scorers over the whole catalog: a two-tower model, or popularity."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.models.two_tower import TwoTower


class Scorer(Protocol):
    """Scores the whole catalog for some users."""

    def scores(self, user_ids: np.ndarray, pasts: ItemLists) -> np.ndarray:
        """`[n]` users, and the item rows that are known of each, oldest first -> `[n, N] float32`, higher is better: a
        new array, which will be written to."""


class ModelScorer:
    """Scores of a trained model, with the candidates embedded once."""

    def __init__(self, model: TwoTower) -> None:
        self._model = model
        self._candidates = tf.constant(model.candidate_embeddings())

    def scores(self, user_ids: np.ndarray, pasts: ItemLists) -> np.ndarray:
        queries = self._model.query_embeddings(user_ids, pasts)
        return self._model.score_matrix(tf.constant(queries), self._candidates).numpy()


class PopularityScorer:
    """The number of training events of each item, or what else it is worth, the same for everybody."""

    def __init__(self, counts: np.ndarray) -> None:
        self._counts = np.asarray(counts, np.float32)

    def scores(self, user_ids: np.ndarray, pasts: ItemLists) -> np.ndarray:
        return np.repeat(self._counts[None], len(user_ids), axis=0)
