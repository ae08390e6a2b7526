"""The candidate tower: an item's media and id -> its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmtfrs import fusion
from mmtfrs._keras import keras, tf
from mmtfrs.config.config import Config
from mmtfrs.towers.alignment import alignment_loss
from mmtfrs.towers.layers import IdEmbedding, as_blocks, hide_modalities, last_mlp


class CandidateTower(keras.layers.Layer):
    """Fuses image, text and audio features, and says apart from them what the id alone knows.

    Media and ids never touch: what a medium cannot say of an item that many took, its id can, and an item without an id, or
    with an unknown one, is known by its media alone.

    Args:
        config: sizes, fusion, dropout and the weight of the alignment; a `Config`, or what `get_config` gives of it.
        modalities: those of the catalog; may be none, then the id alone is left.
        item_rows: rows of the id embedding, 1 + the number of items.

    Call arguments:
        media: `{modality: [B, r]}` reduced features.
        presence: `[B, M]` float32 in the order of `modalities`.
        ids: `[B]` int32 id rows, 0 for unknown, or None for items without an id.
        available: `[B, M]` float32, where `media` has features, real or guessed; `presence` if None.
        training: whether to drop out, and to add the alignment to the losses.

    Returns:
        `(blocks [B, K, D] float32, weights [B, M] float32)`: the blocks of the media and, last, that of the id, zeros where it
        is unknown.
    """

    def __init__(self, config: Config | dict, modalities: Sequence[str], item_rows: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config = self._settings = Config.model_validate(config)
        self.item_rows = item_rows
        self.config = config.model
        self.alignment = config.loss.alignment
        self.modalities = tuple(modalities)
        dim, policy = self.config.embedding_dim, self.dtype_policy
        self.project = {name: keras.layers.Dense(dim, name=f"project_{name}", dtype=policy) for name in modalities}
        if self.modalities:
            self.fusion = fusion.get(self.config.fusion)(self.modalities, dim, name="fusion", dtype=policy)
            self.mlp = last_mlp(self.config, self.fusion, policy)
        self.ids = None
        if self.config.use_item_id or not self.modalities:
            self.ids = IdEmbedding(item_rows, dim, name="item_id", dtype=policy)

    def call(
        self,
        media: Mapping[str, tf.Tensor],
        presence: tf.Tensor,
        ids: tf.Tensor | None = None,
        available: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        parts, weights = [], tf.zeros_like(presence)
        if self.modalities:
            available = presence if available is None else available
            if training:
                available = hide_modalities(available, self.config.modality_dropout)
            vectors = {name: self.project[name](media[name]) for name in self.modalities}
            if self.alignment and training:
                self.add_loss(self.alignment * alignment_loss(vectors, presence))
            fused, weights = self.fusion(vectors, available, training=training)
            weights = fusion.masked_share(weights, presence)
            parts.append(fused if self.mlp is None else fused + self.mlp(tf.nn.relu(fused), training=training))
        if self.ids is not None:
            parts.append(self.known(tf.zeros(tf.shape(presence)[:1], tf.int32) if ids is None else ids))
        return as_blocks(parts), weights

    def known(self, ids: tf.Tensor) -> tf.Tensor:
        """`[B] int32` id rows -> `[B, D]`: what ids alone know, zeros where they are unknown."""
        if self.ids is None:
            return tf.zeros([tf.shape(ids)[0], self.config.embedding_dim], self.compute_dtype)
        return self.ids(ids) * tf.cast(ids > 0, self.compute_dtype)[:, None]

    def get_config(self) -> dict:
        mine = {"config": self._settings.model_dump(mode="json"), "modalities": self.modalities, "item_rows": self.item_rows}
        return {**super().get_config(), **mine}
