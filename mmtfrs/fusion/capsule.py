"""Dynamic routing from modality capsules to output capsules."""

from __future__ import annotations

import math

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, mean_present


class CapsuleFusion(Fusion):
    """Three rounds of routing by agreement; see `Fusion` for the contract.

    Each modality predicts each of 4 output capsules of D / 4 numbers; a capsule is the squashed sum of its predictions, and
    predictions that agree with it count more in the next round. The capsules side by side, after a linear layer and beside
    the mean of
    the modalities, are the fused vector. A modality's weight is the length of what it sends, as a share over the present ones.

    Reference: Sabour, Frosst and Hinton, Dynamic Routing Between Capsules, NeurIPS 2017, arXiv:1710.09829.
    """

    rounds = 3

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.capsules = math.gcd(4, self.dim)
        shape = (len(self.modalities), self.dim, self.capsules, self.dim // self.capsules)
        self.kernel = self.add_weight("kernel", shape, initializer="glorot_uniform")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        votes = tf.cast(tf.einsum("bmd,mdci->bmci", vectors, tf.cast(self.kernel, vectors.dtype)), tf.float32)
        there = tf.cast(presence, tf.float32)
        heard = tf.where(tf.reduce_max(there, axis=1, keepdims=True) > 0, there, 1.0)[..., None]
        fixed = tf.stop_gradient(votes)  # agreement decides the routing, gradients run through the last round
        agreement = tf.zeros_like(votes[..., 0])
        for number in range(self.rounds):
            routing = tf.nn.softmax(agreement, axis=2) * heard
            last = number == self.rounds - 1
            capsules = _squash(tf.einsum("bmc,bmci->bci", routing, votes if last else fixed))
            if not last:
                agreement += tf.einsum("bmci,bci->bmc", fixed, capsules)
        sent = tf.norm(routing[..., None] * fixed, axis=[2, 3]) * there + 1e-6 * there
        weights = tf.math.divide_no_nan(sent, tf.reduce_sum(sent, axis=1, keepdims=True))
        flat = tf.cast(tf.reshape(capsules, [-1, self.dim]), vectors.dtype)
        return self.out(flat) + mean_present(vectors, presence), weights


def _squash(vectors: tf.Tensor) -> tf.Tensor:
    """Lengths into [0, 1), directions kept."""
    square = tf.reduce_sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * square / (1.0 + square) * tf.math.rsqrt(square + 1e-9)
