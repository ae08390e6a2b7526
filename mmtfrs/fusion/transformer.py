"""A transformer encoder over modality tokens."""

from __future__ import annotations

import math

from mmtfrs._keras import keras, tf
from mmtfrs.fusion.base import Fusion, masked_softmax


class TransformerFusion(Fusion):
    """One pre-norm encoder block over the modalities as tokens, and a class token whose output is the fused vector; see
    `Fusion` for the contract. A modality's weight is the attention that the class token pays to it, mean over heads.

    Absent modalities are not attended to, but where nothing is present.

    Reference: Vaswani et al., Attention Is All You Need, 2017, arXiv:1706.03762; the class token as in Devlin et al., BERT,
    2018, arXiv:1810.04805.
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.heads = math.gcd(4, self.dim)
        self.token = self.add_weight("token", (1, 1, self.dim), initializer="random_normal")
        self.kind = self.add_weight("kind", (1, len(self.modalities), self.dim), initializer="random_normal")
        self.norms = [keras.layers.LayerNormalization(name=f"norm_{n}", dtype=self.dtype_policy) for n in range(2)]
        # The class token's row is all that is read of the block, so only its query is made.
        self.query = self.dense(self.dim, "query", use_bias=False)
        self.keys_values = self.dense(2 * self.dim, "keys_values", use_bias=False)
        self.mix = self.dense(self.dim, "mix", use_bias=False)
        self.hidden = self.dense(2 * self.dim, "hidden", activation="gelu")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        dtype, size = vectors.dtype, self.dim // self.heads
        token = tf.broadcast_to(tf.cast(self.token, dtype), [tf.shape(vectors)[0], 1, self.dim])
        tokens = self.norms[0](tf.concat([token, vectors + tf.cast(self.kind, dtype)], axis=1))
        query = tf.reshape(self.query(tokens[:, 0]), [-1, self.heads, size])
        keys, values = tf.unstack(tf.reshape(self.keys_values(tokens), [-1, tokens.shape[1], 2, self.heads, size]), axis=2)
        scores = tf.cast(tf.einsum("bhi,bthi->bht", query, keys), tf.float32) / math.sqrt(size)
        nothing = tf.reduce_max(presence, axis=1, keepdims=True) == 0
        readable = tf.where(nothing, 1.0, tf.cast(presence, tf.float32))
        _, attention = masked_softmax(scores, tf.concat([tf.ones_like(readable[:, :1]), readable], axis=1)[:, None])
        read = tf.einsum("bht,bthi->bhi", tf.cast(attention, dtype), values)
        state = token[:, 0] + self.mix(tf.reshape(read, [-1, self.dim]))
        fused = state + self.out(self.hidden(self.norms[1](state)))
        paid = tf.reduce_mean(attention, axis=1)[:, 1:] * tf.cast(presence, tf.float32)
        return fused, tf.math.divide_no_nan(paid, tf.reduce_sum(paid, axis=1, keepdims=True))
