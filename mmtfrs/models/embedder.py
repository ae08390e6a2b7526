"""Rows and media in, embeddings out: the parts of the model and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mmtfrs._keras import keras, tf, tfrs
from mmtfrs.config.config import Config
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.encoders.base import Encoder
from mmtfrs.errors import DataError
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.device import DeviceTables
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.pooling import Bags
from mmtfrs.models import scores
from mmtfrs.models.objective import Objective
from mmtfrs.models.rating import RatingHead
from mmtfrs.models.windows import shown_in_the_mean
from mmtfrs.towers.candidate import CandidateTower
from mmtfrs.towers.history_transformer import Sequences
from mmtfrs.towers.id_guess import IdGuess
from mmtfrs.towers.imputers import Media, make_imputer
from mmtfrs.towers.likeness import Likeness
from mmtfrs.towers.query import QueryTower
from mmtfrs.utils.untracked import Untracked

_SHARPER = 0.4  # the temperature where order is read: what comes next is told more sharply than what is liked
FRESH = 0.8  # Last.fm-2K has it at .82 to .88, the digits at .59


class Embedder(tfrs.Model):
    """Two towers and what stands between them. Arguments and the parts of an embedding: see `TwoTower`, which trains it."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog | None = None,
        features: Features | None = None,
        events: Events | None = None,
        *,
        tables: ModelInputs | None = None,
    ) -> None:
        super().__init__(name="two_tower", dtype="float32")  # whatever the policy of the process
        if tables is None:
            if catalog is None or features is None or events is None:
                raise DataError("TwoTower needs `catalog`, `features` and `events` (or `tables`).")
            tables = ModelInputs.build(config, catalog, features, events)
        self.config = config
        self._data = Untracked(tables)
        self._device = Untracked(DeviceTables(tables))
        self._by_width: Untracked[dict] = Untracked({})
        self._encoders = Untracked(features.encoders if features is not None else {})
        policy = "mixed_bfloat16" if config.training.mixed_precision else "float32"
        keras.utils.set_random_seed(config.seed)
        items, users = len(tables.item_counts), len(tables.user_ids) + 1
        self.candidate_tower = CandidateTower(config, tables.modalities, items, name="candidate", dtype=policy)
        ids = config.model.use_item_id or not tables.modalities
        self.reads_order = ids and config.model.history_length > 0 and tables.reads_order(config.model.history_encoder)
        self.temperature = config.loss.temperature * (_SHARPER if self.reads_order else 1.0)
        shown = config.training.batch_size * (1.0 - config.model.history_id_dropout) * shown_in_the_mean(tables.seen)
        sizes = users, items, tables.users, self.reads_order, shown < items / 2
        self.query_tower = QueryTower(config, tables.modalities, *sizes, name="query", dtype=policy)
        self.imputer = make_imputer(config.model.missing, tables)
        self.score = scores.get(config.model.score)
        late = self.candidate_tower.fusion if tables.modalities else None
        self.media_blocks = late.blocks if late is not None else 0
        self.blocks = self.media_blocks + ids
        self.block = config.model.embedding_dim + self.score.extra
        self.width = self.blocks * self.block + 1
        self.combine = getattr(late, "combine", "")
        self.id_guess = IdGuess(self.block, name="id_guess", dtype="float32") if ids and self.media_blocks else None
        self.fresh = tf.Variable(FRESH, trainable=False, name="fresh")  # how much the guess at an unknown id counts
        start = [1.0 / self.blocks] * self.blocks + [0.0]
        self.blend = tf.Variable(start, trainable=False, name="blend")  # of each block's score, and of popularity
        # 1: what media are alike by themselves stands in for what their blocks learned.
        self.alike = tf.Variable(0.0, trainable=False, name="alike")
        self.likeness = Likeness.of(tables, config.model.embedding_dim, name="likeness") if self.media_blocks else None
        loss = config.loss.model_copy(update={"temperature": self.temperature})
        beyond = "mixed" if self.reads_order else "in_batch"
        about = tables.item_counts, tables.seen, beyond, self.blocks if self.id_guess is not None else None
        self.objective = Objective(loss, *about, name="objective", dtype="float32")
        self.objective.build(None)
        self.rating = RatingHead(name="rating", dtype="float32") if config.loss.rating else None
        rows, history = tf.zeros([2], tf.int32), tf.zeros([2, max(config.model.history_length, 1)], tf.int32)
        self({"user": rows, "item": rows, "history": history})  # builds it
        if self.rating is not None:
            if np.isnan(tables.ratings[0]):
                raise DataError("the rating task (`loss.rating`) needs events with ratings. Received: a log without any.")
            self.rating(flat(self.query_blocks(rows, history)[0]), flat(self.candidate_blocks(rows)[0]))
            self.rating.set_scale(*tables.ratings)

    @property
    def device(self) -> DeviceTables:
        """Features and id rows on the device; data of the model, not weights."""
        return self._device.value

    @property
    def data(self) -> ModelInputs:
        """Ids, counts and reduced features as arrays."""
        return self._data.value

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The encoders that made the features, where this process loaded them."""
        return self._encoders.value

    @property
    def repeats(self) -> bool:
        """Whether what a user took may be answered again."""
        return self.config.data.repeats == "allow"

    def keep_encoders(self, encoders: Mapping[str, Encoder]) -> None:
        """Notes encoders that are loaded already, so that an export need not load them again."""
        self._encoders = Untracked(dict(encoders))

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
        """`{user [B], history [B, H], item [B]}` int32 rows -> `{query [B, W], candidate [B, W]}`."""
        return {
            "query": self.query_from_rows(inputs["user"], inputs["history"], training=training)[0],
            "candidate": self.candidate_from_rows(inputs["item"])[0],
        }

    def candidate_blocks(self, items: tf.Tensor, ids: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """What is scored block by block.

        Args:
            items: `[B] int32` item rows.
            ids: `[B] int32` id rows to show instead of their own, 0 for none.

        Returns:
            `(blocks [B, K, D] float32, weights [B, M] float32)`.
        """
        media, presence = self.device.item_media(items)
        return self._candidate(media, presence, tf.gather(self.device.item_id_rows, items) if ids is None else ids)

    def trained_blocks(self, items: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """What is trained block by block: `[B] int32` item rows -> `[B, K, D] float32`, or `[B, K + 1, D]` with what media say
        of the block of the ids; in training, half of the items have their ids there, for the others to be measured by."""
        media, presence = self.device.item_media(items)
        blocks, guess, _ = self._learned(media, presence, tf.gather(self.device.item_id_rows, items), training)
        if guess is None:
            return blocks
        if training:  # a new item is ranked among known ones
            shown = tf.random.uniform([tf.shape(items)[0], 1]) < 0.5
            guess = tf.where(shown, tf.stop_gradient(blocks[:, -1]), guess)
        return tf.concat([blocks, guess[:, None]], axis=1)

    def candidate_from_rows(self, items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B] int32` item rows -> `(embedding [B, W], weights [B, M])`."""
        blocks, weights = self.candidate_blocks(items)
        return tf.concat([flat(blocks), tf.gather(self.device.popularity, items)[:, None]], axis=1), weights

    def candidate_from_media(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`{modality: [B, dim]}` raw features and `[B, M]` presence -> as `candidate_from_rows`, for a new item."""
        blocks, weights = self._candidate(self.device.reduced(media, presence), presence)
        return _unpopular(blocks), weights

    def query_blocks(
        self,
        users: tf.Tensor,
        history: tf.Tensor | Bags,
        training: bool | None = None,
        past: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`[B]` user rows and `[B, H]` item rows, int32, 0 for unknown and padding -> as `candidate_blocks`. In training, what
        the media of the history are together may be known already, as `DeviceTables.pooled_but` takes it. A transformer
        reads `[B, H]` alone."""
        own, own_presence = self.device.user_media(users)
        bags = history if isinstance(history, Bags) else Bags.of(history)
        if training and self.config.model.history_dropout:
            hidden = tf.random.uniform(tf.shape(users)) < self.config.model.history_dropout
            bags = bags.without(tf.gather(hidden, bags.owners))
            past = None if past is None else (tf.where(hidden[:, None], 0.0, past[0]), past[1])
        pooled, past_presence = self.device.pooled(bags) if past is None else self.device.pooled_but(*past)
        if self.reads_order:
            taken = self._read(Sequences.of_histories(history), training)[:, -1]
        else:
            taken = bags._replace(items=tf.gather(self.device.item_id_rows, bags.items))
        ids = tf.gather(self.device.user_id_rows, users)
        blocks, weights = self.query_tower(own, own_presence, pooled, past_presence, ids, taken, training=training)
        seen = (pooled, past_presence), (own, own_presence)
        return self._or_alike(self.score.query(blocks), self.score.query, *seen, training=training), weights

    def sequence_blocks(self, users: tf.Tensor, sequences: Sequences, training: bool | None = None) -> tf.Tensor:
        """`[R, S]` user rows and tokens -> `[R * S, K, D] float32`: as `query_blocks`, a query behind each token, by what is
        visible from there."""
        users = tf.reshape(users, [-1])
        own, own_presence = self.device.user_media(users)
        past, past_presence = self.device.pooled_visible(sequences.items, sequences.visible)
        taken = tf.reshape(self._read(sequences, training), [-1, self.config.model.embedding_dim])
        ids = tf.gather(self.device.user_id_rows, users)
        return self.score.query(self.query_tower(own, own_presence, past, past_presence, ids, taken, training=training)[0])

    def _read(self, sequences: Sequences, training: bool | None) -> tf.Tensor:
        """`[R, S, D]`: what is expected after each token."""
        rows = tf.gather(self.device.item_id_rows, sequences.items)
        media, _ = self.device.item_media(tf.reshape(sequences.items, [-1]))
        ids = self.candidate_tower.known(tf.reshape(rows, [-1]))
        shape = tf.shape(sequences.items)

        def in_rows(values: tf.Tensor) -> tf.Tensor:
            return tf.reshape(values, [shape[0], sequences.items.shape[1], values.shape[1]])

        media = {name: in_rows(values) for name, values in media.items()}
        return self.query_tower.read(sequences, rows, in_rows(ids), media, training)

    def query_from_rows(
        self,
        users: tf.Tensor,
        history: tf.Tensor,
        media: dict[str, tf.Tensor] | None = None,
        presence: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries of known or unknown users.

        What a request shows is embedded as an item would be, and looked for beside what the user likes; where nobody is known
        to ask, alone.

        Args:
            users: `[B] int32` user rows, 0 for unknown.
            history: `[B, H] int32` item rows, 0 for padding, anywhere.
            media: `{modality: [B, dim]}` raw features of what the request shows, or None.
            presence: `[B, M]`, which of them are there.
            training: whether to drop out.

        Returns:
            `(embedding [B, W] float32, weights [B, M] float32)`, whose inner product with candidates' is the score.
        """
        blocks, weights = self.query_blocks(users, history, training)
        blocks, popularity = blocks * self.blend[:-1, None], tf.fill([tf.shape(users)[0]], self.blend[-1])
        if media is not None and self.media_blocks:
            shown, shown_weights = self._shown(self.device.reduced(media, presence), presence)
            there = tf.reduce_max(presence, axis=1)
            alone = there * tf.cast((users == 0) & ~tf.reduce_any(history > 0, axis=1), tf.float32)
            blocks = blocks * (1.0 - alone)[:, None, None] + shown * there[:, None, None]
            popularity *= 1.0 - alone
            weights = tf.where(there[:, None] > 0, shown_weights, weights)
        return tf.concat([flat(blocks), popularity[:, None]], axis=1), weights

    def query_from_media(self, media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`{modality: [B, dim]}` raw features and `[B, M]` presence -> a query of an unknown user without history."""
        shown, weights = self._shown(self.device.reduced(media, presence), presence)
        return _unpopular(shown), weights

    def query_from_items(self, items: tf.Tensor, presence: tf.Tensor) -> tf.Tensor:
        """`[B] int32` item rows, `[B, M]` which of their media are shown -> `[B, W]`: a query by these alone."""
        media, there = self.device.item_media(items)
        shown, _ = self._shown(*_masked(media, there * presence))
        return _unpopular(shown)

    def candidate_from_items(self, items: tf.Tensor, presence: tf.Tensor, ids: bool = True) -> tf.Tensor:
        """As `query_from_items`, the embeddings of items that have no other media, and with or without what their ids know."""
        media, there = self.device.item_media(items)
        known = tf.gather(self.device.item_id_rows, items) if ids else None
        blocks, _ = self._candidate(*_masked(media, there * presence), known)
        return _unpopular(blocks)

    def query_like(self, candidates: tf.Tensor) -> tf.Tensor:
        """`[B, W]` embeddings of candidates -> queries for what is like them, however popular."""
        shares = tf.repeat(self.blend[:-1], self.block)
        return candidates * tf.concat([shares, tf.zeros([1])], axis=0)

    def _learned(
        self, media: Media, presence: tf.Tensor, ids: tf.Tensor | None = None, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor]:
        """`(blocks [B, K, D], guess of the last block [B, D] or None, weights [B, M])`, by what was learned alone."""
        blocks, weights, media = self._fused(media, presence, ids, training)
        blocks = self.score.candidate(blocks)
        if self.id_guess is None:
            return blocks, None, weights
        return blocks, self.id_guess(blocks[:, : self.media_blocks], media, training=training), weights

    def _fused(
        self, media: Media, presence: tf.Tensor, ids: tf.Tensor | None = None, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, Media]:
        """`(blocks [B, K, D], weights [B, M], media)`: what the candidate tower makes of media, and these with guesses."""
        available = presence
        if self.imputer is not None:
            media, available = self.imputer(media, presence, training=training)
        return *self.candidate_tower(media, presence, ids, available, training=training), media

    def _candidate(self, media: Media, presence: tf.Tensor, ids: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        blocks, guess, weights = self._learned(media, presence, ids)
        if guess is not None:
            known = tf.zeros(tf.shape(guess)[:1], tf.bool) if ids is None else ids > 0
            own = tf.where(known[:, None], blocks[:, -1], self.fresh * guess)
            blocks = tf.concat([blocks[:, :-1], own[:, None]], axis=1)
        return self._or_alike(blocks, self.score.candidate, (media, presence)), weights

    def _or_alike(
        self,
        blocks: tf.Tensor,
        side: Callable[[tf.Tensor], tf.Tensor],
        *shown: tuple[Media, tf.Tensor],
        training: bool | None = None,
    ) -> tf.Tensor:
        """`[B, K, block]`: what the blocks of the media learned or, where `alike` is set, the likeness of these media."""
        if self.likeness is None or training:
            return blocks
        alike = side(tf.add_n([self.likeness(*each) for each in shown])[:, None])
        alike = tf.pad(alike, [[0, 0], [0, self.blocks - 1], [0, 0]])
        swapped = (self.alike > 0) & (tf.range(self.blocks) < self.media_blocks)
        return tf.where(swapped[None, :, None], alike, blocks)

    def _shown(self, reduced: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Media as a query for what is like them: `(blocks [B, K, D], weights [B, M])`, nothing in the block of the ids."""
        blocks, weights, _ = self._fused(reduced, presence)
        blocks = self._or_alike(self.score.query(blocks), self.score.query, (reduced, presence))
        shares = tf.reshape(self.blend[: self.media_blocks] + 1e-6, [-1, 1])
        shares = tf.pad(shares / tf.reduce_sum(shares), [[0, self.blocks - self.media_blocks], [0, 0]])
        return blocks * shares, weights


def flat(blocks: tf.Tensor) -> tf.Tensor:
    """`[B, K, D]` -> `[B, K D]`."""
    return tf.reshape(blocks, [tf.shape(blocks)[0], blocks.shape[1] * blocks.shape[2]])


def _unpopular(blocks: tf.Tensor) -> tf.Tensor:
    """`[B, K, D]` -> `[B, W]`: an embedding without popularity."""
    return tf.pad(flat(blocks), [[0, 0], [0, 1]])


def _masked(media: dict[str, tf.Tensor], presence: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Reduced features, zeros where they are not present."""
    return {name: value * presence[:, index, None] for index, (name, value) in enumerate(media.items())}, presence
