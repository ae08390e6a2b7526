"""Decoded media -> bytes of files, without loss."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from PIL import Image

from mmtfrs.media.decode import SAMPLE_RATE


def as_png(image: Image.Image, level: int = 6) -> bytes:
    """An image as PNG, compressed from 0, quickly, to 9."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def as_wav(wave: np.ndarray, subtype: str = "FLOAT") -> bytes:
    """`[T] float32, 16 kHz mono` as WAV."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, SAMPLE_RATE, format="WAV", subtype=subtype)
    return buffer.getvalue()
