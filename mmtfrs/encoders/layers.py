"""What transformers are made of, in TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from mmtfrs._keras import tf
from mmtfrs.encoders.weights import Weights

FAR = -1e9  # added to what may not be attended to


def attend(parts: tf.Tensor, heads: int, bias: tf.Tensor | float) -> tf.Tensor:
    """`[B, T, 3 D]`, queries, keys and values side by side, -> `[B, T, D]`; the bias is added to the scores."""
    rows, length = tf.unstack(tf.shape(parts)[:2])
    width = parts.shape[2] // 3
    size = width // heads
    parts = tf.transpose(tf.reshape(parts, [rows, length, 3, heads, size]), [2, 0, 3, 1, 4])
    query, key, value = tf.unstack(parts)
    scores = tf.matmul(query, key, transpose_b=True) / math.sqrt(size) + bias
    return tf.reshape(tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3]), [rows, length, width])


def normalize(values: tf.Tensor, norm: tuple[tf.Variable, tf.Variable], epsilon: float) -> tf.Tensor:
    mean, variance = tf.nn.moments(values, [-1], keepdims=True)
    return (values - mean) * tf.math.rsqrt(variance + epsilon) * norm[0] + norm[1]


def dense(values: tf.Tensor, layer: tuple[tf.Variable, tf.Variable]) -> tf.Tensor:
    """`[B, T, I] -> [B, T, O]`, as one product of two matrices, which is the faster way."""
    kernel, bias = layer
    flat = tf.nn.bias_add(tf.matmul(tf.reshape(values, [-1, kernel.shape[0]]), kernel), bias)
    return tf.reshape(flat, [*tf.unstack(tf.shape(values)[:2]), kernel.shape[1]])


class LayerNames(NamedTuple):
    """What the weights of a layer are called; `scales` are of what is added, "" where there are none."""

    norms: tuple[str, str]
    attention: tuple[str, str, str]  # query, key, value
    output: str
    inner: str
    outer: str
    scales: tuple[str, str] = ("", "")


class PreNorm:
    """Layers of self-attention and a feed-forward part, each normalizing what goes in and adding what comes out.

    Args:
        weights: of the file; what is taken is taken out of it.
        names: of a layer's weights.
        at: what the names of a layer begin with; `{}` stands for its number.
        layers, width, heads: how many of each.
        activation: of the feed-forward part.
        epsilon: of the norms.

    Attributes:
        layers: the variables of each, by what they are for.

    Raises:
        EncoderError: weights are missing or oddly shaped, or the heads do not divide the width.
    """

    def __init__(
        self,
        weights: Weights,
        names: LayerNames,
        at: str,
        layers: int,
        width: int,
        heads: int,
        activation: Callable[[tf.Tensor], tf.Tensor],
        epsilon: float,
    ) -> None:
        weights.check_heads(heads, width)
        self._heads, self._activation, self._epsilon = heads, activation, epsilon
        self.layers = [self._layer(weights, names, at.format(number), width) for number in range(layers)]

    def _layer(self, weights: Weights, names: LayerNames, at: str, width: int) -> dict[str, tuple[tf.Variable, tf.Variable]]:
        inner = weights.shape(f"{at}{names.inner}.weight")[0]
        scales = [name and at + name for name in names.scales]
        return {
            "before": weights.norm(at + names.norms[0], width),
            "attention": weights.dense([at + name for name in names.attention], width, width),
            "output": weights.dense((at + names.output,), width, width, scales[0]),
            "between": weights.norm(at + names.norms[1], width),
            "inner": weights.dense((at + names.inner,), width, inner),
            "outer": weights.dense((at + names.outer,), inner, width, scales[1]),
        }

    def __call__(self, state: tf.Tensor, bias: tf.Tensor | float = 0.0) -> tf.Tensor:
        """`[B, T, width] -> [B, T, width]`; the bias is added to the scores of attention."""
        for layer in self.layers:
            seen = normalize(state, layer["before"], self._epsilon)
            state += dense(attend(dense(seen, layer["attention"]), self._heads, bias), layer["output"])
            seen = normalize(state, layer["between"], self._epsilon)
            state += dense(self._activation(dense(seen, layer["inner"])), layer["outer"])
        return state


def patches(images: tf.Tensor, kernel: tf.Tensor, patch: int) -> tf.Tensor:
    """`[B, S, S, 3] -> [B, (S // patch)^2, width]`, by a kernel `[patch * patch * 3, width]`."""
    rows, side = tf.shape(images)[0], images.shape[1] // patch
    cut = tf.reshape(images[:, : side * patch, : side * patch], [rows, side, patch, side, patch, 3])
    cut = tf.reshape(tf.transpose(cut, [0, 1, 3, 2, 4, 5]), [rows * side * side, patch * patch * 3])
    return tf.reshape(tf.matmul(cut, kernel), [rows, side * side, kernel.shape[1]])
