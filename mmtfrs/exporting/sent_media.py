"""Files of images and audio as the exported graph can decode them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.errors import DataError, MediaError
from mmtfrs.media.decode import ORIENTATION, decode_audio, open_image, read_file
from mmtfrs.media.encode import as_png, as_wav


def image_bytes(path: str | Path) -> bytes:
    """An image's bytes as the graph can decode them: as they are if that gives the same image, else as PNG."""
    if not path:
        return b""
    data, bounds = _read(path)
    try:
        picture = open_image(data, bounds.max_pixels)
        with Image.open(io.BytesIO(data)) as original:
            plain = original.format in ("PNG", "JPEG", "GIF") and original.getexif().get(ORIENTATION, 1) == 1
            plain = plain and original.mode in ("L", "RGB", "RGBA", "LA", "P")
    except MediaError as error:
        raise DataError(f"{path}: {error}.") from None
    return data if plain else as_png(picture)


def wav_bytes(path: str | Path) -> bytes:
    """An audio file's bytes as 16 kHz mono WAV."""
    if not path:
        return b""
    data, bounds = _read(path)
    try:
        wave = decode_audio(data, bounds.max_seconds)
    except MediaError as error:
        raise DataError(f"{path}: {error}.") from None
    return as_wav(wave)


def _read(path: str | Path) -> tuple[bytes, ExtractionConfig]:
    bounds = ExtractionConfig()
    try:
        return read_file(Path(path), bounds.max_bytes), bounds
    except MediaError as error:
        raise DataError(f"{path}: {error}.") from None
