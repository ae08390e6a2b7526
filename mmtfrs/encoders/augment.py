"""Augmented views of media, for a tower to learn what of a medium does not matter."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from mmtfrs.config.schema import Modality
from mmtfrs.encoders.base import Encoder
from mmtfrs.encoders.preprocess import Preprocessed

_SMALLEST = 0.7  # of an image's area that is kept
_COLOR = 0.3  # at most, how much brighter, paler or of less contrast than it was
_DROPPED = 0.15  # of a text's words
_TIME, _BAND = 0.2, 0.25  # at most, of a sound's length and of its octaves


def augmented(encoder: Encoder, number: int) -> Encoder:
    """An encoder of the view `number`, from 1 on, of each medium: a function of the medium and the number alone, so that an
    extraction that is run again, or goes on, makes the same views."""
    function = functools.partial(_view, _VIEWS[encoder.modality], number)
    return Preprocessed(encoder, f"{__name__}:{encoder.modality}-{number}", function)


def _view(change: Callable[[Any, np.random.Generator], Any], number: int, medium: Any) -> Any:
    data = medium.encode("utf-8", "surrogatepass") if isinstance(medium, str) else np.ascontiguousarray(medium).tobytes()
    return change(medium, np.random.default_rng((number, zlib.crc32(data))))


def view_image(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """`[h, w, 3] uint8` -> the same size: a part of it, mirrored or not, in other light."""
    height, width = image.shape[:2]
    whole = np.array([width, height])
    size = whole * np.sqrt(draw.uniform(_SMALLEST, 1.0))
    corner = draw.uniform(0.0, 1.0, 2) * (whole - size)
    made = Image.fromarray(image)
    if draw.random() < 0.5:
        made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    made = made.resize((width, height), Image.Resampling.BILINEAR, box=(*corner, *np.minimum(corner + size, whole)))
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        made = kind(made).enhance(draw.uniform(1.0 - _COLOR, 1.0 + _COLOR))
    return np.array(made)


def view_text(text: str, draw: np.random.Generator) -> str:
    """A text without some of its words, but for one at least."""
    words = text.split()
    kept = draw.random(len(words)) >= _DROPPED
    if len(words) and not kept.any():
        kept[draw.integers(len(words))] = True
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)


def view_audio(sound: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """`[T] float32` -> the same length, silent for a while and without a band of frequencies: SpecAugment (Park et al.,
    Interspeech 2019, arXiv:1904.08779) before the spectrogram, which each encoder makes in its own way."""
    length = len(sound)
    if not length:
        return sound
    spectrum = np.fft.rfft(sound)
    octaves = np.log2(np.arange(len(spectrum)) + 1.0)
    width = draw.uniform(0.0, _BAND) * octaves[-1]
    low = draw.uniform(0.0, octaves[-1] - width)
    spectrum[(octaves >= low) & (octaves < low + width)] = 0.0
    made = np.fft.irfft(spectrum, length).astype(np.float32)
    silent = int(draw.uniform(0.0, _TIME) * length)
    start = int(draw.integers(length - silent + 1))
    made[start : start + silent] = 0.0
    return np.clip(made, -1.0, 1.0)


_VIEWS: dict[Modality, Callable[[Any, np.random.Generator], Any]] = {
    "image": view_image,
    "text": view_text,
    "audio": view_audio,
}
