"""Fusion at the decision level: every modality gives its own score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmtfrs._keras import tf
from mmtfrs.fusion.base import Fusion, masked_share


class LateFusion(Fusion):
    """`f_m = MLP_m(x_m)`, one block per modality, each scored against the same block of the other tower; see `Fusion` for the
    contract.

    How the scores become one, beside that of the ids:
        sum: every modality counts the same.
        stacking: every modality has a weight of its own, learned on held-out events (Wolpert, Stacked Generalization, 1992).
        voting: each modality, and the ids, vote for the items of their own top lists.
    The first two are one inner product of the concatenated blocks, with the weights on the query's side, and so served by any
    index. Voting is not: a vote depends on the rank among all items, which no fixed pair of vectors gives; it is served by
    scoring the blocks apart, exactly. Of one modality there is nothing to decide: it is one vector, as of any other fusion.

    Reference: decision-level fusion in Baltrusaitis, Ahuja and Morency, Multimodal Machine Learning: A Survey and Taxonomy,
    2017, arXiv:1705.09406; voting as in Borda counts, Aslam and Montague, Models for Metasearch, SIGIR 2001.
    """

    def __init__(self, modalities: Sequence[str], dim: int, combine: str = "sum", **kwargs: Any) -> None:
        super().__init__(modalities, dim, **kwargs)
        self.combine = combine

    @property
    def blocks(self) -> int:
        return len(self.modalities)

    def build(self, input_shape: tf.TensorShape | None) -> None:
        self.hidden = [self.dense(self.dim, f"hidden_{name}", activation="relu") for name in self.modalities]
        self.out = [self.dense(self.dim, f"out_{name}") for name in self.modalities]
        super().build(input_shape)

    def fuse(self, vectors: tf.Tensor, presence: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        layers = zip(self.hidden, self.out, tf.unstack(vectors, axis=1), strict=True)
        blocks = [out(hidden(vector)) for hidden, out, vector in layers]
        fused = tf.stack(blocks, axis=1) if self.blocks > 1 else blocks[0]
        return fused, masked_share(tf.ones_like(presence), presence)

    def get_config(self) -> dict:
        return {**super().get_config(), "combine": self.combine}
