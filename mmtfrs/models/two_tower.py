"""The model: two towers, trained by plain Keras `fit` to score what a user took above what others took."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mmtfrs._keras import keras, tf, tfrs
from mmtfrs.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.features.features import Features
from mmtfrs.features.tables import Tables
from mmtfrs.models import scores
from mmtfrs.models.batches import TrainingRows
from mmtfrs.models.histories import Histories
from mmtfrs.models.objective import Objective
from mmtfrs.models.rating import RatingHead
from mmtfrs.models.voting import votes
from mmtfrs.towers.candidate import CandidateTower
from mmtfrs.towers.device_tables import DeviceTables
from mmtfrs.towers.imputers import make_imputer
from mmtfrs.towers.query import QueryTower

_BATCH = 4096


class TwoTower(tfrs.Model):
    """A query tower and a candidate tower whose inner product is the score.

    Embeddings are `[W]`: `model.embedding_dim` numbers, a few more where the score needs them, once per block of a late fusion.
    What is minimised, and against which negatives, is the `loss` section of the config; see `mmtfrs.models.objective`.

    Args:
        config: every setting; frozen with the model.
        catalog: the items, in the order of `features`.
        features: from `mmtfrs.extract`; may lack any modality, or all.
        events: the training events, from which ids and item frequencies are taken.
        tables: instead of the three above, the tables of a saved model.

    Example:
        >>> model = TwoTower(config, catalog, features, split.train)
        >>> model.compile(optimizer="adam")
        >>> model.fit(model.dataset(split.train), epochs=10)
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog | None = None,
        features: Features | None = None,
        events: Events | None = None,
        *,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(name="two_tower")
        if tables is None:
            if catalog is None or features is None or events is None:
                raise DataError("TwoTower needs `catalog`, `features` and `events` (or `tables`).")
            tables = Tables.build(config, catalog, features, events)
        self.config = config
        self._data = _Untracked(tables)
        self._device = _Untracked(DeviceTables(tables))
        self._encoders = _Untracked(features.encoders if features is not None else {})
        policy = "mixed_bfloat16" if config.training.mixed_precision else "float32"
        keras.utils.set_random_seed(config.seed)
        items, users = len(tables.item_counts), len(tables.user_ids) + 1
        self.candidate_tower = CandidateTower(config, tables.modalities, items, name="candidate", dtype=policy)
        self.query_tower = QueryTower(config, tables.modalities, users, items, name="query", dtype=policy)
        self.imputer = make_imputer(config.model.missing, tables)
        self.score = scores.get(config.model.score)
        late = self.candidate_tower.fusion if tables.modalities else None
        self.blocks = 1 if late is None or late.blocks == 1 else late.blocks + config.model.use_item_id
        self.width = self.blocks * (config.model.embedding_dim + self.score.extra)
        self.voting = getattr(late, "combine", "") == "voting"
        self.objective = Objective(config.loss, tables.item_counts, users, self.width, self.blocks,
                                   getattr(late, "combine", "sum"), name="objective")  # fmt: skip
        self.objective.build(None)
        self.rating = RatingHead(name="rating") if config.loss.rating else None
        built = self({name: tf.zeros(shape, tf.int32) for name, shape in
                      (("user", [2]), ("item", [2]), ("history", [2, max(config.model.history_length, 1)]))})  # fmt: skip
        if self.rating is not None:
            self.rating(built["query"], built["candidate"])

    @property
    def device(self) -> DeviceTables:
        """Features and id rows on the device; data of the model, not weights."""
        return self._device.value

    @property
    def data(self) -> Tables:
        """Ids, counts and reduced features as arrays."""
        return self._data.value

    @property
    def encoders(self) -> dict:
        """The encoders that made the features, where this process loaded them."""
        return self._encoders.value

    def keep_encoders(self, encoders: dict) -> None:
        """Notes encoders that are loaded already, so that an export need not load them again."""
        self._encoders = _Untracked(dict(encoders))

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
        """`{user [B], history [B, H], item [B]}` int32 rows -> `{query [B, W], candidate [B, W]}`."""
        return {
            "query": self.query_from_rows(inputs["user"], inputs["history"], training=training)[0],
            "candidate": self.candidate_from_rows(inputs["item"], training=training)[0],
        }

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        query, _ = self.query_from_rows(inputs["user"], inputs["history"], training=training, weighted=False)

        extra: list[tf.Tensor] = []  # the alignment's and the imputer's terms

        def embed(rows: tf.Tensor) -> tf.Tensor:
            return self.candidate_from_rows(rows, training=training, extra=extra)[0]

        losses, candidate = self.objective(query, inputs["user"], inputs["item"], embed)
        if self.rating is not None:
            losses += self.config.loss.rating * self.rating.loss(query, candidate, inputs["rating"])
        return tf.add_n([tf.reduce_mean(losses * inputs["weight"] if "weight" in inputs else losses), *extra])

    def mine(self) -> None:
        """Ranks the catalogue for every user of the training log, and takes the best that they do not know as negatives."""
        events, histories = self._log.value
        users = np.array(sorted(set(events.user_ids)), object)
        queries = self.query_embeddings(users, histories)
        known = self.objective.known.all_items
        self.objective.mined.refresh(self.data.user_rows(users), queries, self.candidate_embeddings(), known)

    def fit(self, *args, callbacks=None, **kwargs):
        """Keras `fit`; with `loss.mined`, negatives are mined anew every few epochs."""
        if self.objective.mined is not None:
            every = self.config.loss.mine_every
            start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: self.mine() if epoch % every == 0 else None)
            callbacks = [start, *(callbacks or [])]
        if isinstance(getattr(self, "optimizer", None), keras.optimizers.Optimizer):
            # Variables that are made in the first step make TensorFlow trace the step twice.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().fit(*args, callbacks=callbacks, **kwargs)

    # AutoGraph does not know tf_keras as a library and would translate all of it: 14 s before the first step, for nothing.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return super().train_step(inputs)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return super().test_step(inputs)

    def candidate_from_rows(
        self, items: tf.Tensor, training: bool | None = None, extra: list | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B] int32` item rows -> `(embedding [B, W], weights [B, M])`."""
        media, presence = self.device.item_media(items)
        return self._candidate(media, presence, tf.gather(self.device.item_id_rows, items), training, extra)

    def candidate_from_media(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`{modality: [B, dim]}` raw features and `[B, M]` presence -> as `candidate_from_rows`, for a new item."""
        return self._candidate(self.device.reduced(media, presence), presence)

    def _candidate(self, media, presence, ids=None, training: bool | None = None, extra: list | None = None):
        standing = presence
        if self.imputer is not None:
            media, standing = self.imputer(media, presence, extra)
        blocks, weights = self.candidate_tower(media, presence, ids, standing, training=training, extra=extra)
        return self._finish(self.score.candidate, blocks, weights)

    def query_from_rows(
        self,
        users: tf.Tensor,
        history: tf.Tensor,
        media: dict[str, tf.Tensor] | None = None,
        presence: tf.Tensor | None = None,
        training: bool | None = None,
        weighted: bool = True,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries of known or unknown users.

        Args:
            users: `[B] int32` user rows, 0 for unknown.
            history: `[B, H] int32` item rows, 0 for padding, anywhere.
            media: `{modality: [B, dim]}` raw features of the request's own media, or None.
            presence: `[B, M]`, which of them are there; the others fall back on the user's own media.
            training: whether to drop out.
            weighted: apply the weights of a late fusion's blocks, which make the inner product the score.

        Returns:
            `(embedding [B, W] float32, weights [B, M] float32)`.
        """
        own, own_presence = self.device.user_media(users)
        if media is not None:
            shown = self.device.reduced(media, presence)
            for index, name in enumerate(self.data.modalities):
                own[name] = tf.where(tf.expand_dims(presence[:, index], 1) > 0, shown[name], own[name])
            own_presence = tf.maximum(own_presence, presence)
        if training and self.config.model.history_dropout:
            hidden = tf.random.uniform([tf.shape(history)[0], 1]) < self.config.model.history_dropout
            history = tf.where(hidden, 0, history)
        past, past_presence = self.device.pooled(history)
        ids = tf.gather(self.device.user_id_rows, users)
        history_ids = tf.gather(self.device.item_id_rows, history)
        blocks, weights = self.query_tower(own, own_presence, past, past_presence, ids, history_ids, training=training)
        return self._finish(self.score.query, blocks, weights, weighted)

    def query_from_media(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`{modality: [B, dim]}` raw features and `[B, M]` presence -> a query of an unknown user without history."""
        own = self.device.reduced(media, presence)
        nothing = {name: tf.zeros_like(value) for name, value in own.items()}
        return self._finish(self.score.query, *self.query_tower(own, presence, nothing, tf.zeros_like(presence)), weighted=True)

    def dataset(self, events: Events, shuffle: bool = True, batch_size: int | None = None) -> tf.data.Dataset:
        """Training batches of integer rows: `{user [B], item [B], history [B, H], weight [B]}`.

        An event's history is taken from `events` itself: everything else its user took, or with `model.history: past` what
        came before it. The last batch of an epoch is left
        out if it is not full (shapes stay static for XLA); the order changes with every epoch.
        """
        rows = TrainingRows(self.config, self.data, events)
        if self.rating is not None:
            self.rating.set_scale(float(rows.columns["rating"].mean()), float(rows.columns["rating"].std()))
        if (shuffle and self.config.loss.mask_known) or self.objective.mined is not None:
            self.objective.remember(rows.known())
            self.train_function = None  # Keras must trace the step anew, around these pairs
            self._log = _Untracked((events, rows.histories))
        return rows.dataset(shuffle, batch_size)

    def score_matrix(self, queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """`[B, W]` queries, `[N, W]` candidates -> `[B, N] float32` scores: inner products, or votes."""
        if self.voting:
            return votes(queries, candidates, self.blocks)
        return tf.matmul(queries, candidates, transpose_b=True)

    def predict_ratings(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """`[n, W]`, `[n, W]` -> `[n] float32` ratings. Raises `DataError` if the model was trained without ratings."""
        if self.rating is None:
            raise DataError("this model predicts no ratings. Train it with `loss.rating` above 0 on events with ratings.")
        return self.rating(tf.constant(queries), tf.constant(candidates)).numpy()

    def candidate_embeddings(self) -> np.ndarray:
        """`[N, W] float32`: the whole catalogue, in its order."""
        return np.concatenate(list(self._batches(self._candidates, np.arange(1, len(self.data.item_ids) + 1))))

    def query_embeddings(self, user_ids, histories: Histories) -> np.ndarray:
        """`[n, W] float32` for users with these histories."""
        if not len(user_ids):
            return np.zeros((0, self.width), np.float32)
        rows = self.data.user_rows(user_ids)
        return np.concatenate(list(self._batches(self._queries, rows, histories.of_users(user_ids))))

    @staticmethod
    def _batches(function, *arrays: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(arrays[0]), _BATCH):
            yield function(*(tf.constant(array[start : start + _BATCH], tf.int32) for array in arrays)).numpy()

    @tf.function(reduce_retracing=True, autograph=False)
    def _candidates(self, items: tf.Tensor) -> tf.Tensor:
        return self.candidate_from_rows(items)[0]

    @tf.function(reduce_retracing=True, autograph=False)
    def _queries(self, users: tf.Tensor, history: tf.Tensor) -> tf.Tensor:
        return self.query_from_rows(users, history)[0]

    def _finish(self, side: Callable, blocks: tf.Tensor, weights: tf.Tensor, weighted: bool = False):
        """`[B, K, D]` blocks -> `[B, W]`, so that the inner product of a query's and a candidate's is the score."""
        blocks = side(blocks)
        if weighted and self.blocks > 1:
            blocks *= self.objective.block_weights[:, None]
        return tf.reshape(blocks, [-1, self.width]), weights


class _Untracked:
    """Hides an attribute from Keras, which would save it in every checkpoint or turn it into its own list types."""

    def __init__(self, value) -> None:
        self.value = value
