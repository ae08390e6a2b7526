"""Videos, as an item's sampled frames for the image encoder and its sound track for the audio encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.function import FunctionEncoder
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.encoders.preprocess import Preprocessed
from mmtfrs.errors import EncoderError
from mmtfrs.media.video import sample_frames, sound_track


class FramesEncoder(Encoder):
    """A video's frames through an image encoder, pooled to one feature: what an image gives, so both share one space.

    Args:
        image: encodes the frames; functions of the user's own get them in their own size.
        bounds: `frames` sampled evenly over the video, and how their features are pooled: `mean`, or `attention`, whose weights
            are `softmax(x_f . mean(x) / sqrt(d))` of features of unit variance, so that frames unlike the rest count less.
    """

    modality = "image"

    def __init__(self, image: ImageEncoder | FunctionEncoder | Preprocessed, bounds: ExtractionConfig) -> None:
        super().__init__(image.name, image, image.dim, image.fingerprint, image.trackables)
        self._image, self._batch = image, bounds.batch_size
        self.in_graph = image.in_graph
        self.pooling = bounds.frame_pooling
        self.salt = f"video/1/{bounds.frames}/{bounds.frame_pooling}".encode()

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        image = self._image
        if not isinstance(image, ImageEncoder):
            frames = sample_frames(data, np.array, bounds)
            prepared = np.empty(len(frames), object)  # which may have several sizes
            prepared[:] = [image.prepared(frame, bounds) for frame in frames]
            return prepared
        return sample_frames(data, lambda frame: image.fit.square(frame, image.size), bounds)

    def encode_batch(self, media: Sequence[np.ndarray]) -> np.ndarray:
        if isinstance(self._image, ImageEncoder):
            return super().encode_batch(media)
        frames = [frame for clip in media for frame in clip]
        parts = [self._image.encode_batch(frames[first : first + self._batch]) for first in range(0, len(frames), self._batch)]
        return pool_frames(tf.constant(np.concatenate(parts)), _clips(media), self.pooling).numpy()

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        return tf.constant(np.concatenate(media)), _clips(media)

    def __call__(self, frames: tf.Tensor, clips: tf.Tensor) -> tf.Tensor:
        """`[F, size, size, 3] uint8` frames of all clips and the clip of each -> `[B, dim] float32`."""
        return pool_frames(self._network(frames), clips, self.pooling)

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        raise EncoderError("videos are encoded when features are extracted, not in the exported graph.")


class SoundTrackEncoder(Encoder):
    """A video's sound track through an audio encoder.

    Args:
        audio: encodes the audio.
    """

    modality = "audio"
    salt = b"video/1"

    def __init__(self, audio: Encoder) -> None:
        super().__init__(audio.name, audio, audio.dim, audio.fingerprint, audio.trackables)
        self._audio = audio
        self.in_graph = audio.in_graph

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        wave = sound_track(data, bounds.max_seconds)
        return self._audio.prepared(wave, bounds) if isinstance(self._audio, Preprocessed) else wave

    def encode_batch(self, media: Sequence[np.ndarray]) -> np.ndarray:
        return self._audio.encode_batch(media)

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        return self._audio.collate(media)

    def __call__(self, waves: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """As `AudioEncoder`."""
        return self._network(waves, lengths)

    def encode_serialized(self, data: tf.Tensor, bounds: ExtractionConfig) -> tuple[tf.Tensor, tf.Tensor]:
        raise EncoderError("videos are encoded when features are extracted, not in the exported graph.")


def _clips(media: Sequence[np.ndarray]) -> tf.Tensor:
    """`[F] int32`: the clip of each frame."""
    return tf.constant(np.repeat(np.arange(len(media)), [len(frames) for frames in media]), tf.int32)


def pool_frames(features: tf.Tensor, clips: tf.Tensor, pooling: str) -> tf.Tensor:
    """`[F, d]` features of frames, `[F]` the clip of each, in order -> `[B, d]`."""
    mean = tf.math.segment_mean(features, clips)
    if pooling == "mean":
        return mean
    middle = tf.gather(mean, clips)
    size = tf.math.rsqrt(tf.reduce_mean(tf.square(middle), axis=1) + 1e-12)
    dim = tf.cast(tf.shape(features)[1], tf.float32)
    scores = tf.reduce_sum(features * middle, axis=1) * size * size / tf.sqrt(dim)
    scores -= tf.gather(tf.math.segment_max(scores, clips), clips)
    weights = tf.exp(scores)
    weights /= tf.gather(tf.math.segment_sum(weights, clips), clips)
    return tf.math.segment_sum(features * weights[:, None], clips)
