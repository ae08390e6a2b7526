"""Bytes of an image or audio -> arrays, on the host. One bad medium raises `MediaError`; nothing else gets out.

Pillow and libsndfile decode here because they know every layout people have. The exported graph decodes with stock
TensorFlow ops instead (`decode_graph.py`); both give the same arrays for the formats they share.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image, ImageOps, UnidentifiedImageError

from mmtfrs.errors import MediaError

SAMPLE_RATE = 16_000
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
ORIENTATION = 0x0112  # EXIF tag
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)  # what a program that streams a WAV writes, as it cannot know the length


def real_path(path: str, root: str | None) -> str:
    """Where a path leads when links are resolved; as it is where any file may be read. Raises `MediaError` outside the root."""
    if root is None:
        return path
    try:
        found, inside = os.path.realpath(path), os.path.realpath(root)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise MediaError(f"the file cannot be read ({error})") from None
    if os.path.commonpath([found, inside]) != inside:
        raise MediaError(f"the file lies outside data.media_root ({root})")
    return found


def read_file(path: Path, max_bytes: int) -> bytes:
    """A file's bytes, or a `MediaError` that says why not."""
    try:
        known = path.stat()
        if not stat.S_ISREG(known.st_mode):  # others may have no end
            raise MediaError("this is a folder, not a file" if stat.S_ISDIR(known.st_mode) else "this is a device, not a file")
        size = known.st_size
        if size > max_bytes:
            raise MediaError(f"the file has {size} bytes, more than extraction.max_bytes ({max_bytes})")
        data = path.read_bytes()
    except FileNotFoundError:
        raise MediaError("there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise MediaError(f"the file cannot be read ({error})") from None
    if not data:
        raise MediaError("the file is empty")
    return data


def open_image(data: bytes, max_pixels: int, draft: int | None = None) -> Image.Image:
    """Decodes an image.

    Args:
        data: the file's bytes (PNG, JPEG, GIF, BMP, WebP, TIFF; of an animation, the first frame).
        max_pixels: larger images are refused from their header, before a pixel is decoded.
        draft: a JPEG may be decoded at a reduced scale that keeps both sides at least this long.

    Returns:
        An RGB image: turned upright by its EXIF tag, transparency laid on white, 16 bit scaled to 8.

    Raises:
        MediaError: this is no image, is damaged, or is too large.
    """
    if not data:
        raise MediaError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning on large images; ours is the error below
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > max_pixels:
                raise MediaError(
                    f"the image has {image.width} x {image.height} pixels, more than extraction.max_pixels ({max_pixels})"
                )
            if draft:
                image.draft("RGB", (draft, draft))
            image.load()
            if image.getexif().get(ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            return image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image)
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise MediaError("this is not an image in a known format (PNG, JPEG, GIF, BMP, WebP, TIFF)") from None
    except Image.DecompressionBombError as error:
        raise MediaError(f"the image has more pixels than extraction.max_pixels ({max_pixels}): {error}") from None
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them raise
        raise MediaError(f"the image is damaged ({error})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more per pixel: keep the upper eight
        values = np.asarray(image, np.float64)
        return Image.fromarray(np.clip(values / 256.0, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def decode_audio(data: bytes, max_seconds: float = float("inf")) -> np.ndarray:
    """Decodes audio (WAV, FLAC, OGG, MP3, AIFF; any rate and number of channels).

    Returns:
        `[T] float32, 16 kHz mono, in [-1, 1]`; T may be 0.

    Raises:
        MediaError: this is no audio, is damaged or cut short, or is longer than `max_seconds`.
    """
    if not data:
        raise MediaError("the file is empty")
    _check_wav_length(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, frames = file.samplerate, file.frames
            if frames > max_seconds * rate:
                raise MediaError(f"the audio lasts {frames / rate:.0f} s, more than extraction.max_seconds ({max_seconds:g})")
            wave = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"this is not audio in a known format (WAV, FLAC, OGG, MP3): {error.error_string}") from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise MediaError(f"the audio is damaged ({error})") from None
    if not np.isfinite(wave).all():
        raise MediaError("the audio has samples that are not finite numbers")
    mono = wave.mean(axis=1)
    if rate != SAMPLE_RATE and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return np.clip(mono, -1.0, 1.0).astype(np.float32)


def _check_wav_length(data: bytes) -> None:
    """libsndfile reads a cut WAV as a shorter one without a word; the header knows better."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[position : position + 8])
        if name == b"data":
            if size not in _UNKNOWN_LENGTHS and position + 8 + size > len(data):
                raise MediaError(f"the audio is cut short ({len(data) - position - 8} of {size} bytes)")
            return
        position += 8 + size + size % 2
