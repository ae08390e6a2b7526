"""Bytes of a video -> sampled frames and sound track, on the host, by PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.errors import EncoderError, MediaError
from mmtfrs.media.decode import SAMPLE_RATE

if TYPE_CHECKING:
    from av.container import InputContainer

NO_SOUND = "the video has no audio"


def sample_frames(data: bytes, square: Callable[[Image.Image], np.ndarray], bounds: ExtractionConfig) -> np.ndarray:
    """`[F, size, size, 3] uint8`: at most `bounds.frames` frames, evenly over a video of any length; fewer if it has fewer.

    Args:
        data: the file's bytes.
        square: an RGB image -> `[size, size, 3] uint8`.
        bounds: limits, and how many frames.

    Raises:
        MediaError: this is no video, has no image, is damaged, too large or too long.
    """
    kept: list[np.ndarray] = []
    stride = 1  # doubles whenever four times as many frames are kept as are wanted: no header needs to tell the length
    with _opened(data) as container:
        if not container.streams.video:
            raise MediaError("the video has no image")
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
            kept.append(square(frame.to_image()))
            if len(kept) == 4 * bounds.frames:
                kept, stride = kept[::2], 2 * stride
    if not kept:
        raise MediaError("the video has no image")
    count = min(bounds.frames, len(kept))
    middles = ((np.arange(count) + 0.5) * len(kept) / count).astype(int)
    return np.stack([kept[place] for place in middles])


def sound_track(data: bytes, max_seconds: float) -> np.ndarray:
    """`[T] float32, 16 kHz mono, in [-1, 1]`.

    Raises:
        MediaError: this is no video, has no audio, is damaged or too long.
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
                    raise MediaError(f"the audio track is longer than extraction.max_seconds ({max_seconds:g})")
        wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not np.isfinite(wave).all():
        raise MediaError("the audio track has samples that are not finite numbers")
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


def _opened(data: bytes) -> InputContainer:
    try:
        import av
    except ImportError:
        raise EncoderError("videos need PyAV: pip install 'mmtfrs[video]'") from None
    if not data:
        raise MediaError("the file is empty")
    try:
        return av.open(io.BytesIO(data), "r")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"this is not a video in a known format ({error})") from None


def _decoded(container: InputContainer, **which: int) -> Iterator:
    """Frames of one stream; damage anywhere is a `MediaError`."""
    import av

    try:
        yield from container.decode(**which)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"the video is damaged ({error})") from None
