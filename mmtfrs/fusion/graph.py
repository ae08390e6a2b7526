"""Message passing over the graph of modalities."""

from __future__ import annotations

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_share


class GraphFusion(Fusion):
    """Two rounds of messages over the complete graph of a row's present modalities, then an MLP over all nodes; see `Fusion`
    for the contract.

    An edge's strength is learned per pair of modalities: `h_m <- relu(U h_m + sum_{n != m} A_mn W h_n / |present|)`. A
    modality's weight is the norm of its final state, as a share over the present ones.

    Reference: interaction networks between modalities as in MCIN; the update is a graph convolution with learned edges, Kipf
    and Welling, ICLR 2017, arXiv:1609.02907.
    """

    rounds = 2

    def build(self, input_shape: tf.TensorShape | None) -> None:
        count = len(self.modalities)
        self.edges = self.add_weight("edges", (count, count), initializer="ones")
        self.keep = [self.dense(self.dim, f"keep_{n}") for n in range(self.rounds)]
        self.send = [self.dense(self.dim, f"send_{n}", use_bias=False) for n in range(self.rounds)]
        self.out = self.dense(self.dim, "out")
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count, dtype = len(self.modalities), vectors.dtype
        there = tf.cast(presence, tf.float32)
        # Everybody sends to everybody, but only what is present speaks; nulls listen.
        edges = tf.cast(self.edges, tf.float32) * (1.0 - tf.eye(count)) * there[:, None, :]
        edges = tf.cast(edges / tf.maximum(tf.reduce_sum(there, axis=1), 1.0)[:, None, None], dtype)
        states = vectors
        for keep, send in zip(self.keep, self.send, strict=True):
            states = tf.nn.relu(keep(states) + tf.einsum("bmn,bnd->bmd", edges, send(states)))
        norms = tf.norm(tf.cast(tf.stop_gradient(states), tf.float32), axis=-1) + 1e-6
        return self.out(tf.reshape(states, [-1, count * self.dim])), masked_share(norms, presence)
