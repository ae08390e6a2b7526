"""The query tower: who asks, and what they took before -> an embedding."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmtfrs import fusion
from mmtfrs._keras import keras, tf
from mmtfrs.config.config import Config
from mmtfrs.model_inputs.pooling import Bags
from mmtfrs.towers.history_transformer import HistoryTransformer, Sequences
from mmtfrs.towers.layers import IdEmbedding, as_blocks, hide_modalities, last_mlp
from mmtfrs.utils.draws import uniform


class QueryTower(keras.layers.Layer):
    """Per modality, the history's mean and the user's own medium become one vector; these are fused as an item's are, and what
    the user likes in media is added before the last MLP: what media say depends on who asks. Apart from that, with tables of
    their own, the ids of the user and the history are asked what ids know of items: media cannot make that worse. Where order
    tells what comes next, a transformer that reads ids and media of the history (see `read`) stands for these ids.

    Args:
        config: sizes, fusion and dropout; a `Config`, or what `get_config` gives of it.
        modalities: those of the catalog; may be none, then ids and history alone are left.
        user_rows: rows of the user embedding, 1 + the number of users.
        item_rows: rows of the history's id embedding, 1 + the number of items.
        owned: modalities that users have media of.
        reads_order: whether histories are read by a transformer.
        sparse: whether the histories of a step have few of the catalog's items.

    Call arguments:
        own: `{modality: [B, r]}` reduced features of the users' media, zeros where absent.
        own_presence: `[B, M]` float32 in the order of `modalities`.
        past: `{modality: [B, r]}` mean of the reduced features of the history's items, zeros where there are none.
        past_presence: `[B, M]` float32.
        users: `[B]` int32 user id rows, 0 for unknown.
        history: bags of item id rows; or, where order is read, `[B, D]` of what `read` gave.

    Returns:
        `(blocks [B, K, D] float32, weights [B, M] float32)`, as those of the candidate tower.
    """

    def __init__(
        self,
        config: Config | dict,
        modalities: Sequence[str],
        user_rows: int,
        item_rows: int,
        owned: Collection[str] = (),
        reads_order: bool = False,
        sparse: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        config = self._settings = Config.model_validate(config)
        self._sizes = {"user_rows": user_rows, "item_rows": item_rows, "owned": sorted(owned)}
        self._sizes |= {"reads_order": reads_order, "sparse": sparse}
        self.reads_order = reads_order
        self.config = config.model
        self.modalities = tuple(modalities)
        dim, policy = self.config.embedding_dim, self.dtype_policy

        def dense(kind: str, names: Sequence[str]) -> dict[str, keras.layers.Dense]:
            return {name: keras.layers.Dense(dim, name=f"{kind}_{name}", use_bias=False, dtype=policy) for name in names}

        self.project_own = dense("own", [name for name in modalities if name in owned])
        self.project_past = dense("past", modalities)
        if self.modalities:
            self.fusion = fusion.get(self.config.fusion)(self.modalities, dim, name="fusion", dtype=policy)
            self.mlp = last_mlp(self.config, self.fusion, policy)
            self.likes = None
            if self.mlp is not None and self.config.use_user_id:
                self.likes = IdEmbedding(user_rows, dim, self.config.id_dropout, name="user_likes", dtype=policy)
        self.history = IdEmbedding(item_rows, dim, sparse=sparse, name="history_id", dtype=policy)
        if not reads_order:
            self.users = IdEmbedding(user_rows, dim, self.config.id_dropout, name="user_id", dtype=policy)
        else:
            self.project_token = dense("token", modalities)
            self.transformer = HistoryTransformer(dim, self.config.dropout, name="history", dtype=policy)
            self.history.build(None)  # it is not called: each token sums what is visible from there

    def call(
        self,
        own: Mapping[str, tf.Tensor],
        own_presence: tf.Tensor,
        past: Mapping[str, tf.Tensor],
        past_presence: tf.Tensor,
        users: tf.Tensor,
        history: Bags | tf.Tensor,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        parts, weights = [], tf.zeros_like(own_presence)
        if self.modalities:
            vectors = {name: self.project_past[name](past[name]) for name in self.modalities}
            for name, project in self.project_own.items():
                vectors[name] += project(own[name])
            presence = tf.maximum(own_presence, past_presence)
            if training:
                presence = hide_modalities(presence, self.config.modality_dropout)
            fused, weights = self.fusion(vectors, presence, training=training)
            if self.mlp is not None:
                told = fused if self.likes is None else fused + self.likes(users, training=training)
                fused = told + self.mlp(tf.nn.relu(told), training=training)
            parts.append(fused)
        if self.reads_order:
            parts.append(history)
        elif self.config.use_item_id or not self.modalities:
            known = tf.zeros([tf.shape(users)[0], self.config.embedding_dim], self.compute_dtype)
            if self.config.use_user_id:
                known += self.users(users, training=training)
            if self.config.history_length and isinstance(history, Bags):
                known += self._pool_ids(history, training)
            parts.append(known)
        return as_blocks(parts), weights

    def read(
        self,
        sequences: Sequences,
        rows: tf.Tensor,
        ids: tf.Tensor,
        media: Mapping[str, tf.Tensor],
        training: bool | None = None,
    ) -> tf.Tensor:
        """What is expected after each token of a history: by the order of what was taken, and by what was taken at all.

        Args:
            sequences: `[R, S]` tokens.
            rows: `[R, S] int32` id rows of their items, 0 where they are unknown.
            ids: `[R, S, D]` of what the ids of their items know, zeros where they are unknown.
            media: `{modality: [R, S, r]}` of their reduced features, zeros where absent.
            training: whether to drop out.

        Returns:
            `[R, S, D]`.
        """
        tokens = tf.cast(ids, self.compute_dtype)
        for name in self.modalities:
            tokens += self.project_token[name](media[name])
        return self.transformer(tokens, sequences, training=training) + self._pool_visible(sequences, rows, training)

    def get_config(self) -> dict:
        mine = {"config": self._settings.model_dump(mode="json"), "modalities": self.modalities, **self._sizes}
        return {**super().get_config(), **mine}

    def _pool_visible(self, sequences: Sequences, rows: tf.Tensor, training: bool | None) -> tf.Tensor:
        """`[R, S, D]`: as `_pool_ids`, of what is visible from each token; as large as what the transformer says."""
        share = self.config.history_id_dropout if training else 0.0
        kept = (rows > 0) & (uniform(tf.shape(rows)) >= share) if share else rows > 0
        taken = tf.gather(self.history.embeddings, rows)
        visible = tf.cast(sequences.visible, self.compute_dtype)
        count = tf.matmul(visible, tf.cast(sequences.items > 0, self.compute_dtype)[..., None]) * (1.0 - share)
        total = tf.matmul(visible, tf.cast(taken * tf.cast(kept, tf.float32)[..., None], self.compute_dtype))
        return total * tf.math.rsqrt(tf.maximum(count, 1.0)) * math.sqrt(self.config.embedding_dim)

    def _pool_ids(self, history: Bags, training: bool | None) -> tf.Tensor:
        """Sum over the square root of the count (Koren, Factorization Meets the Neighborhood, KDD 2008)."""
        keep = 1.0 - self.config.history_id_dropout if training else 1.0
        shown = tf.maximum(history.sizes, 1.0)
        count = shown if history.whole is None else tf.maximum(history.whole, 1.0)
        share = tf.minimum(keep * count / shown, 1.0)  # of those shown: what is not shown is hidden already
        if training and keep < 1.0:
            chances = uniform(tf.shape(history.items))
            history = history.without(chances >= tf.gather(share, history.owners))
        scale = tf.math.rsqrt(tf.maximum(count * keep, 1.0)) * count * keep / (shown * share)
        return self.history(history, training=training) * tf.cast(scale[:, None], self.compute_dtype)
