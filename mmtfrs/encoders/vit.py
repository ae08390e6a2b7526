"""Vision transformers, in TensorFlow, from weights as Hugging Face writes them.

An image is cut into square patches, which are tokens behind one that stands for the whole; layers normalize what goes in
(pre-norm) and add what comes out. DINOv2 scales that by a number for each channel.

References: Dosovitskiy et al., ViT, ICLR 2021; Oquab et al., DINOv2, TMLR 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.layers import LayerNames, PreNorm, normalize, patches
from mmtfrs.encoders.weights import Weights
from mmtfrs.errors import EncoderError


class _Family(NamedTuple):
    """What all names begin with, and what weights of a layer are called."""

    prefix: str
    names: LayerNames


_ATTENTION = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
_VIT = LayerNames(
    ("layernorm_before", "layernorm_after"), _ATTENTION, "attention.output.dense", "intermediate.dense", "output.dense"
)
FAMILIES = {
    "vit": _Family("vit.", _VIT),
    "dinov2": _Family(
        "dinov2.",
        _VIT._replace(
            norms=("norm1", "norm2"), inner="mlp.fc1", outer="mlp.fc2", scales=("layer_scale1.lambda1", "layer_scale2.lambda1")
        ),
    ),
}
HEADS = ("pooler.", "classifier.", "embeddings.mask_token")  # in the file, and no part of this network


class ViT:
    """`[B, size, size, 3] float32`, normalized as the network wants it, -> `[B, 1 + patches, width] float32`.

    Args:
        config: `config.json`.
        weights: of the file; what is taken is taken out of it.
        size: side of the images; positions are resampled where it is not the one that the network was trained on.

    Attributes:
        layers: the variables of each, by what they are for.

    Raises:
        EncoderError: weights are missing or oddly shaped, or a part is of another kind.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights, size: int) -> None:
        family = FAMILIES[config["model_type"]]
        if config.get("use_swiglu_ffn"):
            raise EncoderError("DINOv2 with a SwiGLU layer (giant) is not known here; take small, base or large.")
        self.width, layers, heads = (
            int(weights.setting(config, name)) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        self._patch, trained = int(config["patch_size"]), int(config["image_size"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        activation = weights.activation(config["hidden_act"])
        at = "embeddings.patch_embeddings.projection"
        self._kernel = weights.patches(at, self.width, self._patch)
        side, wanted = trained // self._patch, size // self._patch
        positions = weights.take("embeddings.position_embeddings", (1, 1 + side * side, self.width))[0]
        grid = _resampled(positions[1:].reshape(side, side, -1), wanted).reshape(-1, self.width)
        # The bias of the patches and the token of the whole are added once and for all.
        first = weights.take("embeddings.cls_token", (1, 1, self.width))[0] + positions[:1]
        self._first = weights.keep(first)
        self._positions = weights.keep(grid + weights.take(f"{at}.bias", (self.width,)))
        self._norm = weights.norm("layernorm", self.width)
        self._run = PreNorm(weights, family.names, "encoder.layer.{}.", layers, self.width, heads, activation, self._epsilon)
        self.layers = self._run.layers

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        state = patches(images, self._kernel, self._patch) + self._positions
        state = tf.concat([tf.tile(self._first[None], [tf.shape(images)[0], 1, 1]), state], axis=1)
        return normalize(self._run(state), self._norm, self._epsilon)


def _resampled(grid: np.ndarray, side: int) -> np.ndarray:
    """`[S, S, D] -> [side, side, D]`, bicubic as PyTorch has it (a = -0.75, no antialiasing), which the originals use."""
    size = len(grid)
    if size == side:
        return grid
    table = np.zeros((side, size), np.float32)
    for place in range(side):
        center = (place + 0.5) * size / side - 0.5
        for near in range(math.floor(center) - 1, math.floor(center) + 3):
            table[place, min(max(near, 0), size - 1)] += _cubic(abs(center - near))
    return np.einsum("ai,bj,ijd->abd", table, table, grid)


def _cubic(distance: float, a: float = -0.75) -> float:
    if distance < 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0
