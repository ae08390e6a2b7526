"""The candidate tower: an item's media and id -> its embedding."""

from __future__ import annotations

from collections.abc import Sequence

from mmtfrs import fusion
from mmtfrs._keras import keras, tf
from mmtfrs.config import Config
from mmtfrs.towers.alignment import alignment_loss
from mmtfrs.towers.parts import IdEmbedding, hide_modalities, join_blocks, last_mlp


class CandidateTower(keras.layers.Layer):
    """Fuses image, text and audio features, and adds what the id alone knows.

    With `model.missing: id` a map per modality, learned while media are hidden, says what the id knows of an absent one. An
    item without an id, or with an unknown one, has the vector that hidden ids have learned.

    Args:
        config: sizes, fusion, dropout and the weight of the alignment.
        modalities: those of the catalogue; may be none, then the id alone is left.
        item_rows: rows of the id embedding, 1 + the number of items.

    Call arguments:
        media: `{modality: [B, r]}` reduced features.
        presence: `[B, M]` float32 in the order of `modalities`.
        ids: `[B]` int32 id rows, 0 for unknown, or None for an item without an id.
        standing: `[B, M]` float32, where `media` has features, real or guessed; `presence` if None.
        extra: takes the tower's own terms of the loss, in training.

    Returns:
        `(blocks [B, K, D] float32, weights [B, M] float32)`; K is 1 but for late fusion.
    """

    def __init__(self, config: Config, modalities: Sequence[str], item_rows: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.config = config.model
        self.alignment = config.loss.alignment
        self.modalities = tuple(modalities)
        dim, policy = self.config.embedding_dim, self.dtype_policy
        self.project = {name: keras.layers.Dense(dim, name=f"project_{name}", dtype=policy) for name in modalities}
        if self.modalities:
            self.fusion = fusion.get(self.config.fusion)(self.modalities, dim, name="fusion", dtype=policy)
            self.mlp = last_mlp(self.config, self.fusion, policy)
        known = self.modalities if self.config.missing == "id" and self.config.use_item_id else ()
        self.stand_ins = {
            name: keras.layers.Dense(dim, use_bias=False, kernel_initializer="zeros", name=f"absent_{name}", dtype=policy)
            for name in known
        }
        id_dropout = self.config.id_dropout if modalities else 0.0
        self.ids = IdEmbedding(item_rows, dim, id_dropout, name="item_id", dtype=policy)

    def call(
        self, media, presence, ids=None, standing=None, training: bool | None = None, extra: list | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        blocks, weights, own = None, tf.zeros_like(presence), None
        if self.config.use_item_id or not self.modalities:
            rows = tf.zeros(tf.shape(presence)[:1], tf.int32) if ids is None else ids
            own = self.ids(rows, training=training)
        if self.modalities:
            standing = presence if standing is None else standing
            if training:
                standing = hide_modalities(standing, self.config.modality_dropout)
            vectors = {name: self.project[name](media[name]) for name in self.modalities}
            if self.alignment and extra is not None:
                extra.append(self.alignment * alignment_loss(vectors, presence))
            instead = {name: guess(own) for name, guess in self.stand_ins.items()}
            fused, weights = self.fusion(vectors, standing, instead, training=training)
            weights = fusion.masked_share(weights, presence)
            blocks = fused if self.mlp is None else fused + self.mlp(tf.nn.relu(fused), training=training)
        return join_blocks(blocks, own), weights
