"""Concatenation and an MLP."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_share


class ConcatFusion(Fusion):
    """`f = MLP([x_1; ...; x_M])`, one hidden layer; see `Fusion` for the contract.

    The weights say how much of the hidden layer's input each modality brings: the norm of its part of the first matrix
    product, as a share over the present modalities.

    Reference: feature-level ("high-level") fusion in Baltrusaitis, Ahuja and Morency, Multimodal Machine Learning: A
    Survey and Taxonomy, 2017, arXiv:1705.09406.
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.hidden = [self.dense(self.dim, f"hidden_{name}", use_bias=False) for name in self.modalities]
        self.bias = self.add_weight("bias", (self.dim,), initializer="zeros")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The product with the concatenation, taken apart by modality, so that the parts can be weighed.
        parts = tf.stack(
            [dense(vector) for dense, vector in zip(self.hidden, tf.unstack(vectors, axis=1), strict=True)], axis=1
        )
        hidden = tf.nn.relu(tf.reduce_sum(parts, axis=1) + tf.cast(self.bias, parts.dtype))
        norms = tf.norm(tf.cast(tf.stop_gradient(parts), tf.float32), axis=-1) + 1e-6
        return self.out(hidden), masked_share(norms, presence)
