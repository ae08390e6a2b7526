"""EfficientNet-Lite0, with the weights that were published for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.encoders.base import fingerprint
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.encoders.tunable import tunable_model
from mmtfrs.encoders.weights import read_torch
from mmtfrs.errors import EncoderError

_SIZE = 224
_EPSILON = 1e-3  # of batch normalization
# Blocks, stride of the first, expansion, channels; the weights tell the kernels.
_STAGES = ((1, 1, 1, 16), (2, 2, 6, 24), (2, 2, 6, 40), (3, 2, 6, 80), (3, 1, 6, 112), (4, 2, 6, 192), (1, 1, 6, 320))


def load_efficientnet_lite0(path: Path, name: str = "efficientnet-lite0") -> ImageEncoder:
    """The network without its classifier, averaged over the image: 1 280 numbers.

    Args:
        path: `efficientnet-lite0-57934424.pth`.
        name: what the user asked for.

    Reference: Tan and Le, EfficientNet, ICML 2019; the Lite variants have ReLU6 and no squeeze-and-excitation.

    Raises:
        EncoderError: the file is damaged or of another network.
    """
    arrays = read_torch(path)
    try:
        model = _network(arrays)
    except (KeyError, ValueError) as error:
        raise EncoderError(f"{path}: these weights do not fit EfficientNet-Lite0 ({error}).") from None
    model.trainable = False

    def network(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    mark = fingerprint("efficientnet-lite0/1", *model.get_weights())
    return ImageEncoder(name, network, _SIZE, 1280, mark, list(model.variables), tunable_model(model))


def _network(arrays: Mapping[str, np.ndarray]) -> keras.Model:
    """Layers are named by their blocks, as those of keras.applications; batch normalization is part of the convolutions."""
    values: list[tuple[str, list[np.ndarray]]] = []

    def convolve(x: tf.Tensor, name: str, conv: str, norm: str, stride: int = 1, depthwise: bool = False) -> tf.Tensor:
        kernel = arrays[f"{conv}.weight"]
        scale = arrays[f"{norm}.weight"] / np.sqrt(arrays[f"{norm}.running_var"] + _EPSILON)
        bias = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * scale
        kernel = (kernel * scale[:, None, None, None]).transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        values.append((name, [kernel, bias]))
        shape = {"kernel_size": kernel.shape[:2], "strides": stride, "padding": "same", "name": name}
        if depthwise:
            return keras.layers.DepthwiseConv2D(**shape)(x)
        return keras.layers.Conv2D(kernel.shape[3], **shape)(x)

    def relu(x: tf.Tensor, name: str) -> tf.Tensor:
        return keras.layers.ReLU(6.0, name=f"{name}_activation")(x)

    images = keras.Input((_SIZE, _SIZE, 3))
    x = keras.layers.Rescaling(1 / 128, -127 / 128, name="rescaling")(images)
    x = relu(convolve(x, "stem_conv", "_conv_stem", "_bn0", 2), "stem")
    number = 0
    for stage, (blocks, first_stride, expansion, channels) in enumerate(_STAGES, 1):
        for block in range(blocks):
            name, at, before = f"block{stage}{chr(ord('a') + block)}", f"_blocks.{number}.", x
            if expansion > 1:
                x = relu(convolve(x, f"{name}_expand_conv", f"{at}_expand_conv", f"{at}_bn0"), f"{name}_expand")
            stride = first_stride if block == 0 else 1
            x = relu(convolve(x, f"{name}_dwconv", f"{at}_depthwise_conv", f"{at}_bn1", stride, True), name)
            x = convolve(x, f"{name}_project_conv", f"{at}_project_conv", f"{at}_bn2")
            if stride == 1 and before.shape[-1] == channels:
                x = keras.layers.Add(name=f"{name}_add")([x, before])
            number += 1
    x = relu(convolve(x, "top_conv", "_conv_head", "_bn1"), "top")
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D(name="avg_pool")(x), name="efficientnet-lite0")
    for name, weights in values:
        model.get_layer(name).set_weights(weights)
    return model
