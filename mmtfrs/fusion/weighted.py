"""One learned weight per modality."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_softmax


class WeightedFusion(Fusion):
    """`f = MLP(sum_m w_m x_m)` with `w = softmax(a)`, the same for every row; see `Fusion` for the contract.

    The weights sum to 1 over the present modalities of a row.

    Reference: weighted feature fusion in Baltrusaitis, Ahuja and Morency, Multimodal Machine Learning: A Survey and Taxonomy,
    2017, arXiv:1705.09406; as adaptive multimodal weights in Wei et al., MMGCN, ACM Multimedia 2019.
    """

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.logits = self.add_weight("logits", (len(self.modalities),), initializer="zeros")
        self.hidden = self.dense(self.dim, "hidden", activation="relu")
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.broadcast_to(tf.cast(self.logits, tf.float32), tf.shape(presence))
        weights, mixed = masked_softmax(logits, presence)
        fused = tf.einsum("bm,bmd->bd", tf.cast(mixed, vectors.dtype), vectors)
        return self.out(self.hidden(fused)), weights
