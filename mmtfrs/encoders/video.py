"""Videos, as an item's sampled frames for the image encoder and its sound track for the audio encoder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from mmtfrs._keras import tf
from mmtfrs.encoders.audio import AudioEncoder
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.decode import SAMPLE_RATE
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.errors import EncoderError, MediaError
from mmtfrs.sections import ExtractionConfig


class FramesEncoder(Encoder):
    """A video's frames through an image encoder, pooled to one feature: what a picture gives, so both share one space.

    Args:
        image: encodes the frames.
        bounds: `frames` sampled evenly over the video, and how their features are pooled: `mean`, or `attention`, whose weights
            are `softmax(x_f . mean(x) / sqrt(d))` of features of unit variance, so that frames unlike the rest count less.
    """

    modality = "image"

    def __init__(self, image: ImageEncoder, bounds: ExtractionConfig) -> None:
        super().__init__(image.name, image, image.dim, image.fingerprint, image.trackables)
        self.size = image.size
        self.pooling = bounds.frame_pooling
        self.salt = f"video/1/{bounds.frames}/{bounds.frame_pooling}".encode()

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        return sample_frames(data, self.size, bounds)

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        clips = np.repeat(np.arange(len(media)), [len(frames) for frames in media])
        return tf.constant(np.concatenate(media)), tf.constant(clips, tf.int32)

    def __call__(self, frames: tf.Tensor, clips: tf.Tensor) -> tf.Tensor:
        """`[F, size, size, 3] uint8` frames of all clips and the clip of each -> `[B, dim] float32`."""
        return pool_frames(self._network(frames), clips, self.pooling)

    def encode_serialized(self, data: tf.Tensor) -> tf.Tensor:
        raise EncoderError("videos are encoded when features are extracted, not in the exported graph.")


class SoundTrackEncoder(Encoder):
    """A video's sound track through an audio encoder.

    Args:
        audio: encodes the sound.
    """

    modality = "audio"
    salt = b"video/1"

    def __init__(self, audio: AudioEncoder) -> None:
        super().__init__(audio.name, audio, audio.dim, audio.fingerprint, audio.trackables)

    def decode(self, data: bytes, bounds: ExtractionConfig) -> np.ndarray:
        return sound_track(data, bounds.max_seconds)

    def collate(self, media: Sequence[np.ndarray]) -> tuple[tf.Tensor, ...]:
        return self._network.collate(media)

    def __call__(self, waves: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """As `AudioEncoder`."""
        return self._network(waves, lengths)

    def encode_serialized(self, data: tf.Tensor) -> tf.Tensor:
        raise EncoderError("videos are encoded when features are extracted, not in the exported graph.")


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


def sample_frames(data: bytes, size: int, bounds: ExtractionConfig) -> np.ndarray:
    """`[F, size, size, 3] uint8`: at most `bounds.frames` frames, evenly over a video of any length; fewer if it has fewer.

    Raises:
        MediaError: this is no video, has no picture, is damaged, too large or too long.
    """
    kept: list[np.ndarray] = []
    stride = 1  # doubles whenever four times as many frames are kept as are wanted: no header needs to tell the length
    with _opened(data) as container:
        if not container.streams.video:
            raise MediaError("the video has no picture")
        stream = container.streams.video[0]
        if stream.width * stream.height > bounds.max_pixels:
            raise MediaError(
                f"the video has {stream.width} x {stream.height} pixels, more than extraction.max_pixels ({bounds.max_pixels})"
            )
        stream.thread_type = "NONE"  # media are decoded side by side already
        for number, frame in enumerate(_decoded(container, video=0)):
            if frame.time is not None and frame.time > bounds.max_seconds:
                raise MediaError(f"the video is longer than extraction.max_seconds ({bounds.max_seconds:g})")
            if number % stride:
                continue
            kept.append(np.asarray(frame.to_image().resize((size, size), Image.Resampling.BILINEAR)))
            if len(kept) == 4 * bounds.frames:
                kept, stride = kept[::2], 2 * stride
    if not kept:
        raise MediaError("the video has no picture")
    count = min(bounds.frames, len(kept))
    middles = ((np.arange(count) + 0.5) * len(kept) / count).astype(int)
    return np.stack([kept[place] for place in middles])


def sound_track(data: bytes, max_seconds: float) -> np.ndarray:
    """`[T] float32, 16 kHz mono, in [-1, 1]`.

    Raises:
        MediaError: this is no video, has no sound, is damaged or too long.
    """
    import av

    with _opened(data) as container:
        if not container.streams.audio:
            raise MediaError(NO_SOUND)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        parts, total = [], 0
        for frame in [*_decoded(container, audio=0), None]:
            for piece in resampler.resample(frame):
                parts.append(piece.to_ndarray()[0])
                total += len(parts[-1])
                if total > max_seconds * SAMPLE_RATE:
                    raise MediaError(f"the sound track is longer than extraction.max_seconds ({max_seconds:g})")
        wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not np.isfinite(wave).all():
        raise MediaError("the sound track has samples that are not finite numbers")
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


NO_SOUND = "the video has no sound"


def _opened(data: bytes):
    try:
        import av
    except ImportError:
        raise EncoderError("videos need PyAV: pip install 'mmtfrs[video]'") from None
    if not data:
        raise MediaError("the file is empty")
    try:
        return av.open(io.BytesIO(data))
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"this is not a video in a known format ({error})") from None


def _decoded(container, **which) -> Iterator:
    """Frames of one stream; damage anywhere is a `MediaError`."""
    import av

    try:
        yield from container.decode(**which)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"the video is damaged ({error})") from None
