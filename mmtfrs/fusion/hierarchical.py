"""Attention within each modality, then across modalities."""

from __future__ import annotations

import math

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_softmax


class HierarchicalFusion(Fusion):
    """Two levels of additive attention; see `Fusion` for the contract.

    Within: a modality's vector is seen as 4 segments of D / 4 numbers (aspects), projected and averaged with weights
    `softmax_s(u_m' tanh(W_m x_ms))`. Across: the modalities are averaged with weights `softmax_m(v' tanh(V h_m))`, and an MLP
    follows.

    Reference: Yang et al., Hierarchical Attention Networks for Document Classification, NAACL 2016, with aspects of a modality
    for words and modalities for sentences.
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.segments = math.gcd(4, self.dim)
        count = len(self.modalities)
        size = self.dim // self.segments
        self.project = self.add_weight("project", (count, self.segments, size, self.dim), initializer="glorot_uniform")
        self.aspect = self.add_weight("aspect", (count, self.dim), initializer="random_normal")
        self.across = self.dense(self.dim, "across", activation="tanh")
        self.score = self.dense(1, "score", use_bias=False)
        self.hidden = self.dense(self.dim, "hidden", activation="relu")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        dtype = vectors.dtype
        count, size = len(self.modalities), self.dim // self.segments
        segments = tf.reshape(vectors, [-1, count, self.segments, size])
        aspects = tf.einsum("bmsi,msid->bmsd", segments, tf.cast(self.project, dtype))
        scores = tf.einsum("bmsd,md->bms", tf.tanh(aspects), tf.cast(self.aspect, dtype))
        within = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32), axis=-1), dtype)
        # The residual keeps what the aspects leave out.
        inner = vectors + tf.einsum("bms,bmsd->bmd", within, aspects)
        weights, mixed = masked_softmax(self.score(self.across(inner))[..., 0], presence)
        return self.out(self.hidden(tf.einsum("bm,bmd->bd", tf.cast(mixed, dtype), inner))), weights
