"""Rows and media in, parts of embeddings out: what the model is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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
from mmtfrs.utils.draws import uniform
from mmtfrs.utils.untracked import Untracked

_SHARPER = 0.4  # the temperature where order is read: what comes next is told more sharply than what is liked
FRESH = 0.8  # Last.fm-2K has it at .82 to .88, the digits at .59


class Parts(NamedTuple):
    """What an embedding is made of.

    Attributes:
        blocks: `[B, K, D] float32`, learned: those of the media and, last, that of the ids.
        alike: `[B, A] float32`, what the media are alike by themselves.
        weights: `[B, M] float32`, how much each modality counts in the learned blocks.
    """

    blocks: tf.Tensor
    alike: tf.Tensor
    weights: tf.Tensor

    def weighted(self, shares: tf.Tensor) -> Parts:
        """By `[K + 1]` or `[B, K + 1]`, that of likeness last; or by K where there is none."""
        count = self.blocks.shape[1]
        return self._replace(blocks=self.blocks * shares[..., :count, None], alike=self.alike * shares[..., count:])

    def embedding(self, popularity: tf.Tensor | None = None) -> tf.Tensor:
        """`[B, W]`: all in a row, and `[B]` popularity."""
        last = tf.zeros_like(self.blocks[:, 0, 0]) if popularity is None else popularity
        return tf.concat([flat(self.blocks), self.alike, last[:, None]], axis=1)


class PartedModel(tfrs.Model):
    """Two towers and what stands between them. Arguments: see `TwoTower`, which trains it."""

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
        self.combine = getattr(late, "combine", "")
        self.likeness = None
        if self.media_blocks and not self.voting:
            self.likeness = Likeness.of(tables, config.model.embedding_dim, name="likeness")
        alike = self.likeness.dim if self.likeness is not None else 0
        self.width = self.blocks * self.block + alike + 1
        self.id_guess = IdGuess(self.block, name="id_guess", dtype="float32") if ids and self.media_blocks else None
        self.fresh = tf.Variable(FRESH, trainable=False, name="fresh")  # how much the guess at an unknown id counts
        start = [1.0 / self.blocks] * self.blocks + [0.0] * (1 + (alike > 0))
        # Of the score of each block, of likeness where there is one, and of popularity.
        self.blend = tf.Variable(start, trainable=False, name="blend")
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
            self.rating(flat(self.query_parts(rows, history).blocks), flat(self.candidate_parts(rows).blocks))
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
    def voting(self) -> bool:
        """Whether scores are votes, and so no inner products."""
        return self.combine == "voting"

    @property
    def repeats(self) -> bool:
        """Whether what a user took may be answered again."""
        return self.config.data.repeats == "allow"

    def keep_encoders(self, encoders: Mapping[str, Encoder]) -> None:
        """Notes encoders that are loaded already, so that an export need not load them again."""
        self._encoders = Untracked(dict(encoders))

    def candidate_parts(self, items: tf.Tensor, ids: tf.Tensor | None = None) -> Parts:
        """What is scored part by part: `[B] int32` item rows, and id rows to show instead of their own, 0 for none."""
        media, presence = self.device.item_media(items)
        return self._candidate(media, presence, tf.gather(self.device.item_id_rows, items) if ids is None else ids)

    def trained_blocks(self, items: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """What is trained block by block: `[B] int32` item rows -> `[B, K, D] float32`, or `[B, K + 1, D]` with what media say
        of the block of the ids; in training, half of the items have their ids there, for the others to be measured by."""
        media, presence = self.device.item_media(items, drawn=training)
        blocks, guess, _ = self._learned(media, presence, tf.gather(self.device.item_id_rows, items), training)
        if guess is None:
            return blocks
        if training:  # a new item is ranked among known ones
            shown = uniform([tf.shape(items)[0], 1]) < 0.5
            guess = tf.where(shown, tf.stop_gradient(blocks[:, -1]), guess)
        return tf.concat([blocks, guess[:, None]], axis=1)

    def query_parts(
        self,
        users: tf.Tensor,
        history: tf.Tensor | Bags,
        training: bool | None = None,
        past: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> Parts:
        """`[B]` user rows and `[B, H]` item rows, int32, 0 for unknown and padding -> as `candidate_parts`. In training, what
        the media of the history are together may be known already, as `DeviceTables.pooled_but` takes it. A transformer
        reads `[B, H]` alone."""
        own, own_presence = self.device.user_media(users)
        bags = history if isinstance(history, Bags) else Bags.of(history)
        if training and self.config.model.history_dropout:
            hidden = uniform(tf.shape(users)) < self.config.model.history_dropout
            bags = bags.without(tf.gather(hidden, bags.owners))
            past = None if past is None else (tf.where(hidden[:, None], 0.0, past[0]), past[1])
        pooled, past_presence = self.device.pooled(bags) if past is None else self.device.pooled_but(*past)
        if self.reads_order:
            taken = self._read(Sequences.of_histories(history), training)[:, -1]
        else:
            taken = bags._replace(items=tf.gather(self.device.item_id_rows, bags.items))
        ids = tf.gather(self.device.user_id_rows, users)
        blocks, weights = self.query_tower(own, own_presence, pooled, past_presence, ids, taken, training=training)
        return Parts(self.score.query(blocks), self._alike((pooled, past_presence), (own, own_presence)), weights)

    def sequence_blocks(self, users: tf.Tensor, sequences: Sequences, training: bool | None = None) -> tf.Tensor:
        """`[R, S]` user rows and tokens -> `[R * S, K, D] float32`: as `query_parts`, a query behind each token, by what is
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

    def _candidate(self, media: Media, presence: tf.Tensor, ids: tf.Tensor | None = None) -> Parts:
        blocks, guess, weights = self._learned(media, presence, ids)
        if guess is not None:
            known = tf.zeros(tf.shape(guess)[:1], tf.bool) if ids is None else ids > 0
            own = tf.where(known[:, None], blocks[:, -1], self.fresh * guess)
            blocks = tf.concat([blocks[:, :-1], own[:, None]], axis=1)
        return Parts(blocks, self._alike((media, presence)), weights)

    def _alike(self, *shown: tuple[Media, tf.Tensor]) -> tf.Tensor:
        """`[B, A]`: the likeness of media and presence, added up; A is 0 where a model has none."""
        if self.likeness is None:
            return tf.zeros([tf.shape(shown[0][1])[0], 0])
        return tf.add_n([self.likeness(*each) for each in shown])


def flat(blocks: tf.Tensor) -> tf.Tensor:
    """`[B, K, D]` -> `[B, K D]`."""
    return tf.reshape(blocks, [tf.shape(blocks)[0], blocks.shape[1] * blocks.shape[2]])
