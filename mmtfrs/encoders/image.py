"""Images -> features, by any network that takes square images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmtfrs._keras import keras, tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.base import Encoder
from mmtfrs.media.decode import open_image
from mmtfrs.media.decode_graph import decode_images


class ImageEncoder(Encoder):
    """An image is resized to the network's size (bilinear, antialiased, without keeping its proportions, as
    keras.applications' own weights were trained) and encoded.

    Args:
        name: what the user asked for.
        network: `[B, size, size, 3] float32` in 0..255 -> `[B, dim] float32`; it does its own preprocessing.
        size: side of the network's images, in pixels.
        dim: size of a feature.
        fingerprint: hash of the network's weights and preprocessing.
        trackables: what a SavedModel must carry for the network.
        model: the Keras model inside the network, where it can be trained further.
    """

    modality = "image"

    def __init__(
        self,
        name: str,
        network: Callable[[tf.Tensor], tf.Tensor],
        size: int,
        dim: int,
        fingerprint: str,
        trackables: list[Any],
        model: keras.Model | None = None,
    ) -> None:
        super().__init__(name, network, dim, fingerprint, trackables)
        self.size = size
        self.model = model
        self.inputs = (tf.TensorSpec([None, size, size, 3], tf.uint8),)
        self._run = tf.function(self._encode, input_signature=self.inputs, autograph=False)

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        image = open_image(data, bounds.max_pixels, draft=self.size)
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        return (tf.constant(np.stack(media)),)

    def __call__(self, pictures: tf.Tensor) -> tf.Tensor:
        """`[B, size, size, 3] uint8` -> `[B, dim] float32`."""
        return self._run(pictures)

    def _encode(self, pictures: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._network(tf.cast(pictures, tf.float32)), tf.float32)

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        def prepare(picture: tf.Tensor) -> tf.Tensor:
            resized = tf.image.resize(picture, [self.size, self.size], antialias=True)
            return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)

        spec = tf.TensorSpec([self.size, self.size, 3], tf.uint8)
        pictures, problems = decode_images(data, bounds.max_pixels, prepare, spec)
        return self._encode(pictures), problems
