"""Scaled dot-product weights over modalities."""

from __future__ import annotations

import math

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_softmax


class AttentionFusion(Fusion):
    """`a_m = softmax_m(x_m' W x_m / sqrt(D))`, `f = MLP(sum_m a_m x_m)`; see `Fusion` for the contract.

    The softmax runs over the present modalities; where none is there, the mean of the null vectors is used.

    Reference: the weights are the self-attention scores of Vaswani et al., Attention Is All You Need, 2017,
    arXiv:1706.03762, taken of each modality with itself.
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.kernel = self.add_weight("kernel", (self.dim, self.dim), initializer="glorot_uniform")
        self.hidden = self.dense(self.dim, "hidden", activation="relu")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.einsum("bmd,de,bme->bm", vectors, tf.cast(self.kernel, vectors.dtype), vectors)
        weights, mixed = masked_softmax(tf.cast(scores, tf.float32) / math.sqrt(self.dim), presence)
        fused = tf.einsum("bm,bmd->bd", tf.cast(mixed, vectors.dtype), vectors)
        return self.out(self.hidden(fused)), weights
