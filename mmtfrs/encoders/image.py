"""Images -> features, by any network that takes square images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL import __version__ as pillow

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.tunable import Tunable
from mmtfrs.media.decode import open_image
from mmtfrs.media.decode_graph import decode_images

_LONGEST = 16  # times the shorter side: of what is longer, the middle is resized, which is all that is cut out of it

_BY_SHRINKAGE = int(pillow.partition(".")[0]) >= 13  # first along the side that shrinks more; before, always along the width


class Fit(NamedTuple):
    """How an image becomes a square.

    Attributes:
        shortest: pixels of its shorter side, before the square is cut out of the middle; 0: it is stretched to the square.
        bicubic: instead of bilinear; antialiased both.
    """

    shortest: int = 0
    bicubic: bool = False

    def square(self, image: Image.Image, size: int) -> np.ndarray:
        """`[size, size, 3] uint8` of an RGB image."""
        width = height = size
        if self.shortest:
            short, long = sorted(image.size)
            if long > _LONGEST * short:
                extra = (long - _LONGEST * short) // 2
                wide = image.width == long
                box = (extra, 0, long - extra, short) if wide else (0, extra, short, long - extra)
                image = image.crop(box)
                long -= 2 * extra
            width = height = self.shortest
            longer = self.shortest * long // short
            width, height = (longer, height) if image.width > image.height else (width, longer)
        kind = Image.Resampling.BICUBIC if self.bicubic else Image.Resampling.BILINEAR
        image = image.resize((width, height), kind)
        left, top = (width - size) // 2, (height - size) // 2
        return np.asarray(image.crop((left, top, left + size, top + size)))


class ImageEncoder(Encoder):
    """An image is made a square of the network's size and encoded: stretched to it by default, bilinear and antialiased, as
    keras.applications' own weights were trained.

    Args:
        name: what the user asked for.
        network: `[B, size, size, 3] float32` in 0..255 -> `[B, dim] float32`; it does its own preprocessing.
        size: side of the network's images, in pixels.
        dim: size of a feature.
        fingerprint: hash of the network's weights and preprocessing.
        trackables: what a SavedModel must carry for the network.
        tunable: what of it can be trained further, if anything.
        fit: how an image becomes a square.
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
        tunable: Tunable | None = None,
        fit: Fit | None = None,
    ) -> None:
        super().__init__(name, network, dim, fingerprint, trackables)
        self.size = size
        self.fit = fit or Fit()
        self.tunable = tunable
        self.inputs = (tf.TensorSpec([None, size, size, 3], tf.uint8),)
        self._run = tf.function(self._encode, input_signature=self.inputs, autograph=False)

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        image = open_image(data, bounds.max_pixels, draft=max(self.size, self.fit.shortest))
        return self.fit.square(image, self.size)

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        return (tf.constant(np.stack(media)),)

    def __call__(self, pictures: tf.Tensor) -> tf.Tensor:
        """`[B, size, size, 3] uint8` -> `[B, dim] float32`."""
        return self._run(pictures)

    def _encode(self, pictures: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._network(tf.cast(pictures, tf.float32)), tf.float32)

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        def prepare(picture: tf.Tensor) -> tf.Tensor:
            picture = self._middle(picture)
            height, width = self._sides(picture)
            kind = "bicubic" if self.fit.bicubic else "bilinear"
            # In two steps, rounded each time: as Pillow does.
            tall, wide = tf.unstack(tf.shape(picture)[:2])
            first = tf.where((height * wide < width * tall) & _BY_SHRINKAGE, [height, wide], [tall, width])
            resized = picture
            for sides in (first, [height, width]):
                resized = tf.image.resize(resized, sides, kind, antialias=True)
                resized = tf.clip_by_value(tf.floor(resized + 0.5), 0.0, 255.0)
            left, top = (width - self.size) // 2, (height - self.size) // 2
            resized = resized[top : top + self.size, left : left + self.size]
            resized = tf.ensure_shape(resized, [self.size, self.size, 3])
            return tf.cast(resized, tf.uint8)

        spec = tf.TensorSpec([self.size, self.size, 3], tf.uint8)
        pictures, problems = decode_images(data, bounds.max_pixels, prepare, spec)
        return self._encode(pictures), problems

    def _middle(self, picture: tf.Tensor) -> tf.Tensor:
        """The middle of an image that is very long, as `Fit.square` takes it."""
        if not self.fit.shortest:
            return picture
        sides = tf.shape(picture)[:2]
        extra = tf.maximum(sides - _LONGEST * tf.reverse(sides, [0]), 0) // 2
        return picture[extra[0] : sides[0] - extra[0], extra[1] : sides[1] - extra[1]]

    def _sides(self, picture: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor | int]:
        """As `Fit.sides`, in a graph."""
        if not self.fit.shortest:
            return self.size, self.size
        height, width = tf.unstack(tf.shape(picture)[:2])
        longer = self.fit.shortest * tf.maximum(height, width) // tf.minimum(height, width)
        short = tf.constant(self.fit.shortest)
        return tf.where(height > width, longer, short), tf.where(height > width, short, longer)
