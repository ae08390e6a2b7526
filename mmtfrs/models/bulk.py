"""What is asked of a model for many users or the whole catalog at once, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.data.id_column import IdColumn
from mmtfrs.errors import DataError
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.models.embedder import Embedder
from mmtfrs.models.parts import flat
from mmtfrs.models.voting import votes

_NO_RATINGS = "this model predicts no ratings. Train it with `loss.rating` above 0 on events with ratings."
_BATCH = 4096
_SHORT = 8  # items of a history from which on it matters how many they are


class BulkEmbedder(Embedder):
    """Embeddings, scores and ratings as NumPy arrays, a batch at a time."""

    def score_matrix(self, queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """`[B, W]` queries, `[N, W]` candidates -> `[B, N] float32` scores: inner products, or votes."""
        if self.voting:
            return votes(queries[:, :-1], candidates[:, :-1], self.blocks)
        return tf.matmul(queries, candidates, transpose_b=True)

    def block_scores(
        self, user_ids: IdColumn | Collection[str], pasts: ItemLists, columns: np.ndarray, hidden: np.ndarray | None = None
    ) -> np.ndarray:
        """The scores of items, part by part.

        Args:
            user_ids, pasts: `[n]` users who took these items before.
            columns: `[C]` item indices.
            hidden: `[C] bool`, items to be scored as if nobody had taken them.

        Returns:
            `[n, C, K + 2] float32`: the score of each block and of likeness, and the popularity of each item; `K + 1` for a
            model without likeness.
        """
        users, past = self.data.user_rows(user_ids), pasts.newest(self.config.model.history_length)
        shown = columns + 1 if hidden is None else np.where(hidden, 0, columns + 1)
        ids = self.device.item_id_rows.numpy()[shown]
        queries = self._batches(lambda *inputs: self.query_parts(*inputs).embedding(), users, past)
        candidates = self._batches(lambda *inputs: self.candidate_parts(*inputs).embedding(), columns + 1, ids)
        starts = np.arange(self.blocks + 1) * self.block
        sides = (np.split(np.concatenate(list(side))[:, :-1], starts[1:], axis=1) for side in (queries, candidates))
        scores = [query @ candidate.T for query, candidate in zip(*sides, strict=True)]
        popular = np.broadcast_to(self.data.popularity[shown], scores[0].shape)
        return np.stack([*scores[: self.blend.shape[0] - 1], popular], axis=2)

    def predict_ratings(self, user_ids: IdColumn | Collection[str], pasts: ItemLists, items: np.ndarray) -> np.ndarray:
        """`[n]` users who took these items before, `[n]` item rows -> `[n] float32` ratings. Raises `DataError` if the model
        was trained without ratings."""
        if self.rating is None:
            raise DataError(_NO_RATINGS)
        rows = self.data.user_rows(user_ids)
        found = self._batches(self._ratings, rows, pasts.newest(self.config.model.history_length), items)
        return np.concatenate([np.zeros(0, np.float32), *found])

    def candidate_embeddings(self) -> np.ndarray:
        """`[N, W] float32`: the whole catalog, in its order."""
        rows = np.arange(1, len(self.data.item_ids) + 1)
        found = np.empty((len(rows), self.width), np.float32)
        for number, part in enumerate(self._batches(self._candidates, rows)):
            found[number * _BATCH :][: len(part)] = part
        return found

    def query_embeddings(self, user_ids: IdColumn | Collection[str], pasts: ItemLists) -> np.ndarray:
        """`[n, W] float32` for users who took these items before."""
        if not len(user_ids):
            return np.zeros((0, self.width), np.float32)
        rows = self.data.user_rows(user_ids)
        found = np.empty((len(rows), self.width), np.float32)
        for width, group in self._widths(pasts):
            past = pasts.take(group).newest(width)
            found[group] = np.concatenate(list(self._batches(self._queries(width), rows[group], past)))
        return found

    def _widths(self, pasts: ItemLists) -> Iterator[tuple[int, np.ndarray]]:
        """Powers of two, and who has histories of such a width; one for all of a bag, which does not read its padding."""
        longest = self.config.model.history_length
        lengths = np.minimum(pasts.counts, longest)
        if not self.reads_order:
            lengths[:] = lengths.max()
        powers = np.ceil(np.log2(np.maximum(lengths, _SHORT))).astype(int)
        for power in np.unique(powers):
            yield min(1 << int(power), longest), np.flatnonzero(powers == power)

    @staticmethod
    def _batches(function: Callable[..., tf.Tensor], *arrays: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(arrays[0]), _BATCH):
            yield function(*(tf.constant(array[start : start + _BATCH], tf.int32) for array in arrays)).numpy()

    @tf.function(reduce_retracing=True, autograph=False)
    def _candidates(self, items: tf.Tensor) -> tf.Tensor:
        return self.candidate_from_rows(items)[0]

    def _queries(self, width: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """`[B]` users, `[B, width]` histories -> `[B, W]`, one function for each width."""
        made = self._by_width.value
        if width not in made:
            rows = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, width], tf.int32)
            made[width] = tf.function(lambda *asked: self.query_from_rows(*asked)[0], rows, autograph=False)
        return made[width]

    @tf.function(reduce_retracing=True, autograph=False)
    def _ratings(self, users: tf.Tensor, history: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        if self.rating is None:
            raise DataError(_NO_RATINGS)
        return self.rating(flat(self.query_parts(users, history).blocks), flat(self.candidate_parts(items).blocks))
