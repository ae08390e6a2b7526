"""A gate per modality, row and dimension."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_share


class GatedFusion(Fusion):
    """`h_m = tanh(W_m x_m)`, `z_m = sigmoid(V_m [x_1; ...; x_M])`, `f = W sum_m z_m * h_m`; see `Fusion` for the contract.

    A gate sees all modalities of its row. A modality's weight is the mean of its gate, as a share over the present ones.

    Reference: Arevalo et al., Gated Multimodal Units for Information Fusion, 2017, arXiv:1702.01992.
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.hidden = [self.dense(self.dim, f"hidden_{name}", activation="tanh") for name in self.modalities]
        self.gates = self.dense(self.dim * len(self.modalities), "gates", activation="sigmoid")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shape = [-1, len(self.modalities), self.dim]
        gates = tf.reshape(self.gates(tf.reshape(vectors, [-1, shape[1] * shape[2]])), shape)
        hidden = tf.stack(
            [dense(vector) for dense, vector in zip(self.hidden, tf.unstack(vectors, axis=1), strict=True)], axis=1
        )
        strength = tf.reduce_mean(tf.cast(gates, tf.float32), axis=2) + 1e-6
        return self.out(tf.reduce_sum(gates * hidden, axis=1)), masked_share(strength, presence)
