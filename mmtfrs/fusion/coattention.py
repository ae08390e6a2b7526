"""Each modality attends to the others."""

from __future__ import annotations

import math

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_share, masked_softmax


class CoattentionFusion(Fusion):
    """`c_m = sum_{n != m} softmax_n(q_m . k_n / sqrt(D)) v_n`, `f = MLP([x_m + c_m]_m)`; see `Fusion` for the contract.

    A modality attends to the present others; one that is alone has nothing to attend to. A modality's weight is the attention
    that it gets, and its own share.

    Reference: Lu et al., Hierarchical Question-Image Co-Attention, NeurIPS 2016, arXiv:1606.00061; with scaled dot products as
    in ViLBERT's co-attention, Lu et al., NeurIPS 2019, arXiv:1908.02265.
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.query, self.key, self.value = (self.dense(self.dim, name, use_bias=False) for name in ("query", "key", "value"))
        self.hidden = self.dense(self.dim, "hidden", activation="relu")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count = len(self.modalities)
        others = (1.0 - tf.eye(count)) * tf.cast(presence, tf.float32)[:, None, :]
        scores = tf.einsum("bmd,bnd->bmn", self.query(vectors), self.key(vectors))
        attention, _ = masked_softmax(tf.cast(scores, tf.float32) / math.sqrt(self.dim), others)
        context = tf.einsum("bmn,bnd->bmd", tf.cast(attention, vectors.dtype), self.value(vectors))
        joined = tf.reshape(vectors + context, [-1, count * self.dim])
        received = tf.reduce_sum(attention * tf.cast(presence, tf.float32)[..., None], axis=1)
        return self.out(self.hidden(joined)), masked_share(received + 1.0, presence)
