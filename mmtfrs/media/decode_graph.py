"""Bytes of an image or audio -> tensors in stock TensorFlow ops: what the exported graph runs.

Nothing raises: a server answers many requests in one batch, which has one status for all of them. Headers are parsed before
anything is decoded, so that a decompression bomb never takes the server's memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.media.decode import SAMPLE_RATE
from mmtfrs.media.resample import resample
from mmtfrs.utils.row_problems import told

_MAGIC = _PNG, _JPEG, _GIF, _BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM"
_UNKNOWN = 2**32 - 1  # a data chunk of this size, or of 0, goes as far as the file


def _integer(data: tf.Tensor, start: tf.Tensor | int, size: int, big: bool) -> tf.Tensor:
    """An unsigned integer of `size` bytes at `start` of a string; 0 where the string ends before."""
    start = tf.clip_by_value(tf.cast(start, tf.int64), 0, tf.cast(tf.strings.length(data), tf.int64))
    part = tf.strings.substr(tf.strings.substr(data, start, size) + b"\0" * size, tf.zeros_like(start), size)
    values = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int64)
    powers = np.array([256**power for power in range(size)], np.int64)
    return tf.reduce_sum(values * (powers[::-1] if big else powers))


def code_of(name: bytes) -> int:
    """The number that `_integer` reads where a file has these letters."""
    return int.from_bytes(name, "big")


def decode_images(
    data: tf.Tensor, max_pixels: int, prepare: Callable[[tf.Tensor], tf.Tensor], spec: tf.TensorSpec
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images (PNG, JPEG, GIF, BMP), each decoded to `[H, W, 3] uint8` RGB, transparency laid on white, and made alike.

    Args:
        data: `[B]` string, the files' bytes.
        max_pixels: larger images are not decoded.
        prepare: one decoded image -> a tensor of `spec`.
        spec: of fixed shape.

    Returns:
        `(prepared [B, ...], zeros where there is a problem, problems [B] string)`.
    """

    def one(row: tf.Tensor, picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels = _pixels(picture)
        nothing = tf.zeros(spec.shape, spec.dtype)
        return row, pixels, tf.cond(pixels <= max_pixels, lambda: prepare(decode_image(picture)), lambda: nothing)

    rows = tf.shape(data, tf.int64)[0]
    # TensorFlow's decoders raise on damaged bytes. What skips a row that raises is a data set.
    found = tf.data.Dataset.from_tensor_slices((tf.range(rows), data)).map(one, num_parallel_calls=tf.data.AUTOTUNE)
    last = tf.data.Dataset.from_tensors((rows, np.int64(0), tf.zeros(spec.shape, spec.dtype)))  # a batch is never empty
    places, pixels, prepared = found.ignore_errors().concatenate(last).batch(rows + 1).get_single_element()
    places = places[:-1, None]
    prepared = tf.scatter_nd(places, prepared[:-1], tf.concat([[rows], tf.constant(list(spec.shape), tf.int64)], axis=0))
    read = tf.scatter_nd(places, pixels[:-1], [rows])
    known = tf.reduce_any(tf.stack([_starts(data, magic) for magic in _MAGIC]), axis=0)
    problem = told(read == 0, "image: the file is damaged")
    problem = tf.where(known, problem, "image: the bytes are no PNG, JPEG, GIF or BMP image")
    problem = tf.where(read > max_pixels, f"image: more than {max_pixels} pixels", problem)
    return tf.ensure_shape(prepared, [None, *spec.shape]), problem


def _starts(data: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.strings.substr(data, 0, len(magic)) == magic


def _pixels(data: tf.Tensor) -> tf.Tensor:
    """`[] int64`: how many an image has, by its header."""
    return tf.case(
        [
            (_starts(data, _PNG), lambda: _integer(data, 16, 4, True) * _integer(data, 20, 4, True)),
            (_starts(data, _JPEG), lambda: tf.cast(tf.reduce_prod(tf.io.extract_jpeg_shape(data, tf.int64)[:2]), tf.int64)),
            (_starts(data, _GIF), lambda: _integer(data, 6, 2, False) * _integer(data, 8, 2, False)),
        ],
        # A BMP's height is negative when its rows run downwards.
        default=lambda: _integer(data, 18, 4, False) * _bmp_height(data),
    )


def decode_image(data: tf.Tensor) -> tf.Tensor:
    """One image's bytes -> `[H, W, 3] uint8`, as `decode_images`. Raises InvalidArgumentError, when run, for damaged bytes."""
    # Color types 3, 4 and 6 can be transparent. Not asked of the others: decode_png gives grays of less than 8 bits
    # a wrong alpha.
    rgb = tf.cond(
        _starts(data, _PNG) & (_integer(data, 25, 1, True) >= 3),
        lambda: _on_white(tf.io.decode_png(data, channels=4)),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    rgb.set_shape([None, None, 3])
    return rgb


def _bmp_height(data: tf.Tensor) -> tf.Tensor:
    height = _integer(data, 22, 4, False)
    return tf.minimum(height, 2**32 - height)


def _on_white(rgba: tf.Tensor) -> tf.Tensor:
    color = tf.cast(rgba[..., :3], tf.float32)
    alpha = tf.cast(rgba[..., 3:], tf.float32) / 255.0
    return tf.cast(tf.round(color * alpha + 255.0 * (1.0 - alpha)), tf.uint8)


def decode_wav(data: tf.Tensor, max_seconds: float) -> tuple[tf.Tensor, tf.Tensor]:
    """One WAV file -> `[T] float32, 16 kHz mono, in [-1, 1]`.

    `tf.audio.decode_wav` reads 16-bit files alone; this reads integers of 8, 16, 24 and 32 bits and floats of 32 and
    64, of any rate and number of channels, wherever the chunks lie.

    Args:
        data: `[]` string, the file's bytes.
        max_seconds: longer audio is not decoded.

    Returns:
        `(wave, problem [] string)`: no samples where there is a problem.
    """
    total = tf.cast(tf.strings.length(data), tf.int64)
    riff = (_integer(data, 0, 4, True) == code_of(b"RIFF")) & (_integer(data, 8, 4, True) == code_of(b"WAVE"))
    fmt, _ = _chunk(data, b"fmt ")
    start, size = _chunk(data, b"data")
    fmt = tf.where(fmt >= 0, fmt, total)  # where there is nothing to read, numbers are 0
    code, channels = _integer(data, fmt, 2, False), _integer(data, fmt + 2, 2, False)
    rate, bits = _integer(data, fmt + 4, 4, False), _integer(data, fmt + 14, 2, False)
    # WAVE_FORMAT_EXTENSIBLE holds the real code in the first two bytes of its GUID.
    code = tf.where(code == 0xFFFE, _integer(data, fmt + 24, 2, False), code)
    integers = (code == 1) & ((bits == 8) | (bits == 16) | (bits == 24) | (bits == 32))
    floats = (code == 3) & ((bits == 32) | (bits == 64))
    good = (start >= 0) & (integers | floats) & (channels >= 1) & (channels <= 64)
    good &= (rate >= 1000) & (rate <= 768_000)
    width = tf.where(good, channels * (bits // 8), 1)
    frames = tf.minimum(size, total - start) // width
    numbers = tf.strings.join([tf.strings.as_string(number) for number in (code, bits, channels, rate)], ", ")
    problem = told(frames > tf.cast(max_seconds * tf.cast(rate, tf.float64), tf.int64), f"audio: longer than {max_seconds:g} s")
    problem = tf.where((size < _UNKNOWN) & (start + size > total), "audio: the file is cut short", problem)
    unfit = "audio: not a WAV of 8-32 bit integers or floats; format, bits, channels, rate are "
    problem = tf.where(good, problem, tf.strings.join([unfit, numbers]))
    problem = tf.where(riff, problem, "audio: the bytes are no WAV file")
    raw = tf.strings.substr(data, tf.maximum(start, 0), tf.where(problem == "", tf.maximum(frames * width, 0), 0))
    samples = tf.case(
        [
            ((code == 1) & (bits == 8), lambda: (_raw(raw, tf.uint8) - 128.0) / 128.0),
            ((code == 1) & (bits == 16), lambda: _raw(raw, tf.int16) / 32768.0),
            ((code == 1) & (bits == 24), lambda: _int24(raw)),
            ((code == 1) & (bits == 32), lambda: _raw(raw, tf.int32) / 2147483648.0),
            (bits == 32, lambda: _raw(raw, tf.float32)),
        ],
        default=lambda: _raw(raw, tf.float64),
    )
    finite = tf.reduce_all(tf.math.is_finite(samples))
    samples = tf.cond(finite, lambda: samples, lambda: samples[:0])
    mono = tf.reduce_mean(tf.reshape(samples, tf.stack([-1, tf.where(good, tf.cast(channels, tf.int32), 1)])), axis=1)
    mono = tf.cond(rate == SAMPLE_RATE, lambda: mono, lambda: resample(mono, tf.where(good, rate, SAMPLE_RATE)))
    problem = tf.where(finite, problem, "audio: samples that are not finite numbers")
    return tf.clip_by_value(mono, -1.0, 1.0), problem


def _chunk(data: tf.Tensor, name: bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """`(start, size)` of a RIFF chunk's content, start -1 if there is none."""
    total = tf.cast(tf.strings.length(data), tf.int64)

    def step(position: tf.Tensor) -> tf.Tensor:
        size = _integer(data, position + 4, 4, False)
        return position + 8 + size + size % 2

    position = tf.while_loop(
        lambda position: (position + 8 <= total) & (tf.strings.substr(data, tf.minimum(position, total), 4) != name),
        lambda position: (step(position),),
        (tf.constant(12, tf.int64),),
        maximum_iterations=1000,
    )[0]
    found = position + 8 <= total
    size = _integer(data, tf.where(found, position, 0) + 4, 4, False)
    return tf.where(found, position + 8, -1), tf.where(size == 0, tf.constant(2**32, tf.int64), size)


def _raw(data: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.io.decode_raw(data, dtype), tf.float32)


def _int24(data: tf.Tensor) -> tf.Tensor:
    parts = tf.cast(tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, 3]), tf.int32)
    value = parts[:, 0] + 256 * parts[:, 1] + 65536 * parts[:, 2]
    return tf.cast(tf.where(value >= 2**23, value - 2**24, value), tf.float32) / float(2**23)
