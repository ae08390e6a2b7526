"""The query tower: who asks, what they took before, and what they show -> an embedding."""

from __future__ import annotations

from collections.abc import Sequence

from mmtfrs import fusion
from mmtfrs._keras import keras, tf
from mmtfrs.config import Config
from mmtfrs.towers.parts import IdEmbedding, hide_modalities, join_blocks, last_mlp


class QueryTower(keras.layers.Layer):
    """Per modality, the history's mean and the query's own medium become one vector; these are fused as an item's are;
    what the user's id and the ids of the history know is added before the last MLP.

    Args:
        config: sizes, fusion and dropout.
        modalities: those of the catalogue; may be none, then ids and history alone are left.
        user_rows: rows of the user embedding, 1 + the number of users.
        item_rows: rows of the history's id embedding, 1 + the number of items.

    Call arguments:
        own: `{modality: [B, r]}` reduced features of the user's or the request's media, zeros where absent.
        own_presence: `[B, M]` float32 in the order of `modalities`.
        past: `{modality: [B, r]}` mean of the reduced features of the history's items, zeros where there are none.
        past_presence: `[B, M]` float32.
        users: `[B]` int32 user id rows, 0 for unknown, or None.
        history: `[B, H]` int32 item id rows, 0 for padding, or None.

    Returns:
        `(blocks [B, K, D] float32, weights [B, M] float32)`; K is 1 but for late fusion.
    """

    def __init__(self, config: Config, modalities: Sequence[str], user_rows: int, item_rows: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.config = config.model
        self.modalities = tuple(modalities)
        dim, policy = self.config.embedding_dim, self.dtype_policy

        def dense(kind: str) -> dict[str, keras.layers.Dense]:
            return {name: keras.layers.Dense(dim, name=f"{kind}_{name}", use_bias=False, dtype=policy) for name in modalities}

        self.project_own = dense("own")
        self.project_past = dense("past")
        if self.modalities:
            self.fusion = fusion.get(self.config.fusion)(self.modalities, dim, name="fusion", dtype=policy)
            self.mlp = last_mlp(self.config, self.fusion, policy)
        self.users = IdEmbedding(user_rows, dim, self.config.id_dropout, name="user_id", dtype=policy)
        self.history = IdEmbedding(item_rows, dim, self.config.history_id_dropout, name="history_id", dtype=policy)

    def call(
        self, own, own_presence, past, past_presence, users=None, history=None, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        batch = tf.shape(own_presence)[:1]
        blocks, weights, ids = None, tf.zeros_like(own_presence), []
        late = bool(self.modalities) and self.fusion.blocks > 1
        if self.config.use_user_id:
            rows = tf.zeros(batch, tf.int32) if users is None else users
            ids.append(self.users(rows, training=training))
        if self._uses_history and history is not None:
            ids.append(self._pool_ids(history, training))
        known = tf.add_n(ids) if ids and not (late and not self.config.use_item_id) else None
        if self.modalities:
            vectors = {
                name: self.project_own[name](own[name]) + self.project_past[name](past[name]) for name in self.modalities
            }
            presence = tf.maximum(own_presence, past_presence)
            if training:
                presence = hide_modalities(presence, self.config.modality_dropout)
            blocks, weights = self.fusion(vectors, presence, training=training)
            if self.mlp is not None:  # it sees the ids too: what media say depends on who asks
                fused, known = (blocks if known is None else blocks + known), None
                blocks = fused + self.mlp(tf.nn.relu(fused), training=training)
        if known is None and (blocks is None or (late and self.config.use_item_id)):
            known = tf.zeros(tf.concat([batch, [self.config.embedding_dim]], 0), self.compute_dtype)
        return join_blocks(blocks, known), weights

    @property
    def _uses_history(self) -> bool:
        return self.config.history_length > 0 and (self.config.use_item_id or not self.modalities)

    def _pool_ids(self, history: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Sum over the square root of the count (Koren, Factorization Meets the Neighborhood, KDD 2008)."""
        count = tf.reduce_sum(tf.cast(history > 0, tf.float32), axis=1, keepdims=True)
        scale = tf.math.rsqrt(tf.maximum(count * (1.0 - self.history.id_dropout if training else 1.0), 1.0))
        return self.history(history, training=training) * tf.cast(scale, self.compute_dtype)
