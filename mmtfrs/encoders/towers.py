"""The two networks of CLIP and SigLIP, in TensorFlow, from weights as Hugging Face writes them.

Both are layers that normalize what goes in. CLIP takes a text's last token, which sees all before, and the first token of an
image, and projects both without a bias. SigLIP takes the last of 64 tokens, all of which see each other, and of an image what a
query of its own finds in it.

References: Radford et al., CLIP, ICML 2021; Zhai et al., SigLIP, ICCV 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmtfrs._keras import tf
from mmtfrs.encoders.layers import FAR, LayerNames, PreNorm, dense, normalize, patches
from mmtfrs.encoders.weights import Weights
from mmtfrs.errors import EncoderError

_NAMES = LayerNames(
    ("layer_norm1", "layer_norm2"),
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)
TEXT, IMAGE = "text_model.", "vision_model."
UNUSED = ("logit_", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
TEXT_PARTS, IMAGE_PARTS = (TEXT, "text_projection."), (IMAGE, "visual_projection.")


class Family(NamedTuple):
    """What `config.json` need not say of the texts' and the images' network, as the originals have it."""

    text: Mapping[str, Any]
    image: Mapping[str, Any]


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
FAMILIES = {
    "clip": Family(
        {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "hidden_act": "quick_gelu"}
        | {"layer_norm_eps": 1e-5, "vocab_size": 49408, "max_position_embeddings": 77},
        _BASE | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    ),
    "siglip": Family(
        _BASE | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vocab_size": 32000, "max_position_embeddings": 64},
        _BASE | {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    ),
}


class _Tower:
    """What both networks are of."""

    def __init__(self, settings: Mapping[str, Any], weights: Weights, at: str) -> None:
        self._width, self._heads, layers = (
            int(settings[name]) for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
        )
        self._epsilon, self._activation = float(settings["layer_norm_eps"]), weights.activation(settings["hidden_act"])
        self._layers = PreNorm(
            weights, _NAMES, f"{at}encoder.layers.{{}}.", layers, self._width, self._heads, self._activation, self._epsilon
        )

    def _norm(self, values: tf.Tensor, norm: tuple[tf.Variable, tf.Variable]) -> tf.Tensor:
        return normalize(values, norm, self._epsilon)


class TextTower(_Tower):
    """`(ids [B, T] int32, what is read of them [B, T] bool) -> [B, dim] float32`.

    Args:
        config: `config.json`.
        weights: of the file; what is taken is taken out of it.

    Attributes:
        dim: size of a feature.
        rows: of the embedding.
        longest: tokens that it takes.

    Raises:
        EncoderError: weights are missing or oddly shaped, or the activation is another.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self._clip = config["model_type"] == "clip"
        settings = {**FAMILIES[config["model_type"]].text, **(config.get("text_config") or {})}
        super().__init__(settings, weights, TEXT)
        self.rows, self.longest = int(settings["vocab_size"]), int(settings["max_position_embeddings"])
        at, width = f"{TEXT}embeddings.", self._width
        self._words = weights.keep(weights.take(f"{at}token_embedding.weight", (self.rows, width)))
        self._positions = weights.keep(weights.take(f"{at}position_embedding.weight", (self.longest, width)))
        self._last_norm = weights.norm(f"{TEXT}final_layer_norm", width)
        if self._clip:
            self.dim = int(config.get("projection_dim", 512))
            self._head = weights.matrix("text_projection", width, self.dim)
        else:
            self.dim = int(settings.get("projection_size") or width)
            self._head, self._bias = weights.dense((f"{TEXT}head",), width, self.dim)

    def __call__(self, ids: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
        length = tf.shape(ids)[1]
        state = tf.gather(self._words, ids) + self._positions[:length]
        if self._clip:
            later = tf.range(length) > tf.range(length)[:, None]
            state = self._layers(state, tf.where(later, FAR, 0.0))
            state = tf.gather(state, tf.math.count_nonzero(there, axis=1, dtype=tf.int32) - 1, batch_dims=1)
            return tf.matmul(self._norm(state, self._last_norm), self._head)
        state = self._layers(state, tf.where(there, 0.0, FAR)[:, None, None])
        return tf.matmul(self._norm(state[:, -1], self._last_norm), self._head) + self._bias


class ImageTower(_Tower):
    """`[B, size, size, 3] float32`, normalized as the network wants it, -> `[B, dim] float32`.

    Args:
        config: `config.json`.
        weights: of the file; what is taken is taken out of it.
        size: side of the images.

    Attributes:
        dim: size of a feature.

    Raises:
        EncoderError: weights are missing or oddly shaped, the activation is another, or the images are of another size than
            those of the network.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights, size: int) -> None:
        self._clip = config["model_type"] == "clip"
        settings = {**FAMILIES[config["model_type"]].image, **(config.get("vision_config") or {})}
        if int(settings["image_size"]) != size:
            raise EncoderError(
                f"preprocessor_config.json makes images of {size} pixels, and config.json says {settings['image_size']}."
            )
        super().__init__(settings, weights, IMAGE)
        width, at = self._width, f"{IMAGE}embeddings."
        self._patch = int(settings["patch_size"])
        count = (size // self._patch) ** 2
        self._kernel = weights.patches(f"{at}patch_embedding", width, self._patch)
        self._after = weights.norm(f"{IMAGE}post_layernorm", width)
        positions = weights.take(f"{at}position_embedding.weight", (count + self._clip, width))
        if self._clip:
            self.dim = int(config.get("projection_dim", 512))
            self._first = weights.keep(positions[:1] + weights.take(f"{at}class_embedding", (width,)))
            self._positions = weights.keep(positions[1:])
            self._before = weights.norm(f"{IMAGE}pre_layrnorm", width)  # as it is spelled there
            self._head = weights.matrix("visual_projection", width, self.dim)
        else:
            self.dim = width
            self._positions = weights.keep(positions + weights.take(f"{at}patch_embedding.bias", (width,)))
            self._pool(weights, f"{IMAGE}head.", int(settings.get("intermediate_size", 4 * width)))

    def _pool(self, weights: Weights, at: str, inner: int) -> None:
        """What finds the feature in an image: a query, which is the same for all, and a feed-forward part behind."""
        width = self._width
        kernel = weights.take(f"{at}attention.in_proj_weight", (3 * width, width)).T
        bias = weights.take(f"{at}attention.in_proj_bias", (3 * width,))
        query = weights.take(f"{at}probe", (1, 1, width))[0, 0] @ kernel[:, :width] + bias[:width]
        self._query = weights.keep(query.reshape(self._heads, -1) / math.sqrt(width // self._heads))
        self._seen = weights.keep(kernel[:, width:]), weights.keep(bias[width:])
        self._output = weights.dense((f"{at}attention.out_proj",), width, width)
        self._between = weights.norm(f"{at}layernorm", width)
        self._inner = weights.dense((f"{at}mlp.fc1",), width, inner)
        self._outer = weights.dense((f"{at}mlp.fc2",), inner, width)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        state = patches(images, self._kernel, self._patch) + self._positions
        rows, length = tf.unstack(tf.shape(state)[:2])
        if self._clip:
            state = self._norm(tf.concat([tf.tile(self._first[None], [rows, 1, 1]), state], axis=1), self._before)
            return tf.matmul(self._norm(self._layers(state)[:, 0], self._after), self._head)
        state = self._norm(self._layers(state), self._after)
        seen = tf.reshape(dense(state, self._seen), [rows, length, 2, self._heads, -1])
        shares = tf.nn.softmax(tf.einsum("hd,bthd->bht", self._query, seen[:, :, 0]))
        found = tf.einsum("bht,bthd->bhd", shares, seen[:, :, 1])
        found = dense(tf.reshape(found, [rows, 1, self._width]), self._output)
        inner = self._activation(dense(self._norm(found, self._between), self._inner))
        return (found + dense(inner, self._outer))[:, 0]
