"""The index: ids, vectors, attributes, and the best k of them for a query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.index.base import LOWEST, Search, top_k
from mmtfrs.index.diversity import mmr_order
from mmtfrs.index.exact import ExactSearch
from mmtfrs.index.filters import Attributes
from mmtfrs.utils.row_problems import joined, told

_POOL = 4  # times k candidates among which a diverse list is chosen
_LISTED = 64  # filters that leave less than one item in so many are answered from the lists of those items


class Index(tf.Module):
    """Finds the best k candidates that a request allows.

    Args:
        ids: `[N]` strings, unique.
        search: how vectors are found: an `ExactSearch`, or an approximate one. Or the vectors `[N, D]`, for an exact one.
        k: results per query; cut to N.
        attributes: `{attribute: N values}` that requests can filter by and boost.
        inner: whether scores are inner products of the vectors, and so those of single items can be computed.

    Example:
        >>> index = Index(["a", "b", "c"], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], k=2)
        >>> ids, scores = index(tf.constant([[1.0, 0.0]]), tf.constant([[b"a"]]))
        >>> ids.numpy().tolist()
        [[b'c', b'b']]
    """

    def __init__(
        self,
        ids: Sequence[str] | np.ndarray,
        search: Search | np.ndarray,
        k: int = 100,
        attributes: Mapping[str, Sequence[str] | np.ndarray] | None = None,
        inner: bool = True,
    ) -> None:
        super().__init__(name="index")
        ids = np.asarray(ids, dtype=object)
        if not len(ids):
            raise ValueError("`ids` must hold at least one item. Received: none.")
        self.search = search if isinstance(search, Search) else ExactSearch(np.asarray(search, np.float32))
        self.k = min(k, len(ids))
        self._inner = inner
        self._ids = tf.constant(ids, tf.string)
        # int64, as tables of ONNX have nothing else: `recommend_from_embedding` can be converted.
        self.rows = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(self._ids, tf.range(len(ids), dtype=tf.int64)), default_value=-1
        )
        self.attributes = Attributes(attributes or {}, len(ids))

    def __call__(self, queries: tf.Tensor, exclude: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best k candidates of each query that are not excluded.

        Args:
            queries: `[B, D] float32`.
            exclude: `[B, E]` string ids that must not be answered; "" and unknown ids exclude nothing. Or their int32 rows, as
                `rows_of` gives them, -1 for nothing.

        Returns:
            `(ids [B, k] string, scores [B, k] float32)`, best first. Where fewer than k candidates are left, the rest is
            "" with the lowest float32.
        """
        excluded = self.rows_of(exclude)
        if isinstance(self.search, ExactSearch):
            return self._named(*_best_of(self.search.scores(queries), excluded, self.k))
        count = tf.minimum(self.k + tf.shape(excluded)[1], self.search.size)
        rows, scores = self._approximate(queries, count, excluded, tf.fill(tf.shape(queries)[:1], self.k))
        rows, scores = _best(*_without(rows, scores, excluded), self.k)
        # It may have looked at too few that are not excluded.
        exact = lambda: _best(*_without(*self._exhaustive(queries, None, None, count), excluded), self.k)  # noqa: E731
        return self._named(*_where(rows[:, -1] >= 0, (rows, scores), exact))

    def filtered(
        self,
        queries: tf.Tensor,
        exclude: tf.Tensor,
        allow: tf.Tensor,
        boost_attribute: tf.Tensor,
        boost: tf.Tensor,
        diversity: tf.Tensor,
        min_score: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As a call, of the candidates that fit a filter: exactly the best k wherever k fit.

        Args:
            queries, exclude: as in a call.
            allow: `[B, L]` strings `attribute=value`, "" for nothing. Values of one attribute are alternatives, different
                attributes must all fit.
            boost_attribute, boost: `[B, J]` strings `attribute=value` and what each adds to the scores of such items.
            diversity: `[B]` in [0, 1]: how much a place in the list depends on being unlike the ones above; the scores that
                are answered stay what they are.
            min_score: `[B] float32`, the score below which a list ends.

        Returns:
            `(ids, scores, problems [B] string)`. What a row asks and cannot have, as an unknown attribute, or a boost or a
            diversity out of range, is its problem, and its list is empty: a filter must never be passed over.

        Raises:
            InvalidArgumentError: as many boosts as attributes are not there.
        """
        matching = tf.debugging.assert_equal(
            tf.shape(boost), tf.shape(boost_attribute), "boost: must have one number per boost_attribute"
        )
        with tf.control_dependencies([matching]):
            excluded = self.rows_of(exclude)
        permitted, refused = self.attributes.permitted(allow)
        boosts, unfit = self.attributes.boosts(boost_attribute, boost)
        between = (diversity >= 0) & (diversity <= 1)
        diversity = tf.where(between, diversity, 0.0)
        problem = joined(refused, unfit, told(~between, "diversity: must lie in [0, 1]"), _number(min_score))
        diverse = tf.reduce_any(diversity > 0)
        wanted = tf.where(diverse, _POOL * self.k, self.k)
        wants = tf.where(diversity > 0, _POOL * self.k, self.k)
        count = tf.minimum(wanted + tf.shape(excluded)[1], self.search.size)
        total, chosen = self._lists(permitted)
        few = (total <= max(self.search.size // _LISTED, 4096)) & self._inner
        plain = tf.reduce_all(permitted, axis=1) & tf.reduce_all(tf.equal(boosts, 0.0), axis=1)

        def exact() -> tuple[tf.Tensor, tf.Tensor]:
            rows, scores = tf.cond(
                tf.reduce_all(enough | (few & ~plain)),
                lambda: self._from_lists(queries, permitted, boosts, chosen & ~enough[:, None], count),
                lambda: self._exhaustive(queries, permitted, boosts, count),
            )
            return _without(rows, scores, excluded)

        def approximate() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            rows, scores = _without(*self._approximate(queries, count, excluded, wants), excluded)
            left = tf.reduce_sum(tf.cast(rows >= 0, tf.int32), axis=1)
            return rows, scores, plain & (left >= self.k)

        def nothing() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            none = tf.stack([tf.shape(queries)[0], count + tf.shape(excluded)[1]])
            return tf.fill(none, -1), tf.fill(none, LOWEST), plain

        rows, scores, enough = tf.cond(tf.reduce_any(plain), approximate, nothing)
        rows, scores = _where(enough, (rows, scores), exact)
        rows, scores = _best(rows, scores, tf.minimum(wanted, self.search.size))
        rows, scores = _from(rows, scores, min_score, problem)
        order = tf.cond(
            diverse,
            lambda: mmr_order(scores, self.search.vectors(tf.maximum(rows, 0)), diversity, self.k),
            lambda: tf.tile(tf.range(self.k)[None], [tf.shape(rows)[0], 1]),
        )
        return *self._named(tf.gather(rows, order, batch_dims=1), tf.gather(scores, order, batch_dims=1)), problem

    def ranked(
        self, worth: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, min_score: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The same order for everybody, of what is worth more than 0: `worth [N] float32`; the rest as in `filtered`."""
        excluded = self.rows_of(exclude)
        permitted, refused = self.attributes.permitted(allow)
        problem = joined(refused, _number(min_score))
        scores = tf.where(worth > 0, worth, LOWEST)[None]
        for place in range(len(self.attributes.names)):
            scores = tf.where(tf.gather(permitted, self.attributes.values[:, place], axis=1), scores, LOWEST)
        scores = tf.ensure_shape(tf.broadcast_to(scores, [tf.shape(excluded)[0], self.search.size]), [None, self.search.size])
        rows, values = _best_of(scores, excluded, self.k)
        return *self._named(*_from(rows, values, min_score, problem)), problem

    def rows_of(self, ids: tf.Tensor) -> tf.Tensor:
        """`[...]` string ids -> int32 rows, -1 for "" and unknown ones; rows stay what they are."""
        return ids if ids.dtype == tf.int32 else tf.cast(self.rows.lookup(ids), tf.int32)

    def embeddings_of(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B]` string -> `(embeddings [B, D], known [B] bool)`; zeros for an unknown id."""
        rows = self.rows_of(ids)
        known = rows >= 0
        return tf.where(known[:, None], self.search.vectors(tf.maximum(rows, 0)), 0.0), known

    def _approximate(
        self, queries: tf.Tensor, count: tf.Tensor, excluded: tf.Tensor, wants: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best `count`, of which each row wants `wants [B]` that are not excluded."""
        if self.search.again == 1:
            return self.search.best(queries, count)
        apart = tf.sort(excluded, axis=1)  # the same row may be excluded twice
        new = tf.not_equal(apart, tf.pad(apart[:, :-1], [[0, 0], [1, 0]], constant_values=-1))
        return self.search.best(queries, count, wants + tf.reduce_sum(tf.cast(new & (apart >= 0), tf.int32), axis=1))

    def _lists(self, permitted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B, V]` permitted values -> `(how many items have those of the rarest attribute [B], these values [B, V])`."""
        sizes = self.attributes.sizes()
        totals = tf.stack(
            [
                tf.reduce_sum(tf.where(permitted & (self.attributes.owners == place), sizes, 0), axis=1)
                for place in range(max(len(self.attributes.names), 1))
            ],
            axis=1,
        )
        rarest = tf.argmin(totals, axis=1, output_type=tf.int32)
        return tf.reduce_min(totals, axis=1), permitted & (self.attributes.owners[None] == rarest[:, None])

    def _from_lists(
        self, queries: tf.Tensor, permitted: tf.Tensor, boosts: tf.Tensor, chosen: tf.Tensor, count: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores only the items that have one of the chosen values."""
        pairs = tf.where(chosen)
        values = tf.cast(pairs[:, 1], tf.int32)
        starts, ends = tf.gather(self.attributes.starts, values), tf.gather(self.attributes.starts, values + 1)
        rows = tf.gather(self.attributes.posted, tf.ragged.range(starts, ends).flat_values)
        owners = tf.repeat(pairs[:, 0], ends - starts)
        batch = tf.shape(queries, tf.int64)[0]
        rows = tf.RaggedTensor.from_value_rowids(rows, owners, nrows=batch, validate=False).to_tensor(-1)
        known = tf.maximum(rows, 0)
        fits = (rows >= 0) & self.attributes.passes(permitted, known)
        scores = tf.linalg.matvec(self.search.vectors(known), queries) + self.attributes.boosted(boosts, known)
        return _best(rows, tf.where(fits, scores, LOWEST), count)

    def _exhaustive(
        self, queries: tf.Tensor, permitted: tf.Tensor | None, boosts: tf.Tensor | None, count: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores everything, and keeps what fits."""
        scores = self.search.scores(queries)
        slots = self.search.slot_rows
        for place in range(len(self.attributes.names) if permitted is not None else 0):
            values = self.attributes.values[:, place]
            values = values if slots is None else tf.gather(values, tf.maximum(slots, 0))
            fits = tf.gather(permitted, values, axis=1) & (scores > LOWEST)
            scores = tf.where(fits, scores + tf.gather(boosts, values, axis=1), LOWEST)
        values, places = top_k(scores, count)
        return tf.where(values > LOWEST, self.search.rows_of(places), -1), values

    def _named(self, rows: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows, scores = tf.ensure_shape(rows, [None, self.k]), tf.ensure_shape(scores, [None, self.k])
        return tf.where(rows >= 0, tf.gather(self._ids, tf.maximum(rows, 0)), ""), scores


def _best(rows: tf.Tensor, scores: tf.Tensor, count: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B, S]` rows and scores -> the best `count` of them; the rest has row -1."""
    short = tf.maximum(count - tf.shape(scores)[1], 0)
    scores = tf.pad(scores, [[0, 0], [0, short]], constant_values=LOWEST)
    rows = tf.pad(rows, [[0, 0], [0, short]], constant_values=-1)
    values, places = tf.math.top_k(scores, count)
    return tf.where(values > LOWEST, tf.gather(rows, places, batch_dims=1), -1), values


def _best_of(scores: tf.Tensor, excluded: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B, N]` scores of all rows, `[B, E]` excluded ones, -1 for none -> the best `count` others; row -1 for the rest."""
    batch, size = tf.shape(scores)[0], scores.shape[1]
    owners = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(excluded))
    places = tf.stack([owners, tf.where(excluded >= 0, excluded, size)], axis=2)  # the last column is for nothing
    wide = tf.pad(scores, [[0, 0], [0, 1]], constant_values=LOWEST)
    values, rows = top_k(tf.tensor_scatter_nd_update(wide, places, tf.fill(tf.shape(excluded), LOWEST)), count)
    return tf.where(values > LOWEST, rows, -1), values


def _without(rows: tf.Tensor, scores: tf.Tensor, excluded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B, S]` rows and scores, `[B, E]` excluded rows -> `[B, E + S]`, in any order, the excluded ones at row -1."""
    # A user may have taken thousands: not each with each. `tf.searchsorted` would do, but ONNX has nothing like it.
    every = tf.concat([excluded, rows], axis=1)
    order = tf.argsort(every, axis=1, stable=True)  # a row that is excluded comes right after itself
    rows = tf.gather(every, order, batch_dims=1)
    out = (order < tf.shape(excluded)[1]) | (rows == tf.pad(rows[:, :-1], [[0, 0], [1, 0]], constant_values=-1))
    scores = tf.concat([tf.fill(tf.shape(excluded), LOWEST), scores], axis=1)
    return tf.where(out, -1, rows), tf.where(out, LOWEST, tf.gather(scores, order, batch_dims=1))


def _where(
    good: tf.Tensor, found: tuple[tf.Tensor, tf.Tensor], exact: Callable[[], tuple[tf.Tensor, tf.Tensor]]
) -> tuple[tf.Tensor, tf.Tensor]:
    """What was found, and for the rows that are not good the exact answer: nobody is answered otherwise for another's sake."""

    def mixed() -> tuple[tf.Tensor, tf.Tensor]:
        rows, scores = exact()
        return tf.where(good[:, None], found[0], rows), tf.where(good[:, None], found[1], scores)

    return tf.cond(tf.reduce_all(good), lambda: found, mixed)


def _number(min_score: tf.Tensor) -> tf.Tensor:
    return told(~tf.math.is_finite(min_score), "min_score: must be finite")


def _from(rows: tf.Tensor, scores: tf.Tensor, min_score: tf.Tensor, problem: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B, S]` rows and scores -> the same without what scores below `min_score [B]`, and nothing of a row with a problem."""
    enough = (scores >= min_score[:, None]) & (problem == "")[:, None]
    return tf.where(enough, rows, -1), tf.where(enough, scores, LOWEST)
