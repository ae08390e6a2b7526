"""Bytes of an image or audio -> tensors in stock TensorFlow ops: what the exported graph runs.

Headers are parsed before anything is decoded, so that a request with a decompression bomb or with bytes that are no
image fails with one clear InvalidArgument instead of taking the server's memory.
"""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf

SAMPLE_RATE = 16_000
_ZEROS = 16  # zero crossings of the sinc on each side of its center
_CHUNK = 16_000  # output samples computed at a time, which bounds the memory


def _integer(data: tf.Tensor, start: tf.Tensor | int, size: int, big: bool) -> tf.Tensor:
    """An unsigned integer of `size` bytes at `start` of a string; 0 where the string ends before."""
    start = tf.minimum(tf.cast(start, tf.int64), tf.cast(tf.strings.length(data), tf.int64))
    part = tf.strings.substr(tf.strings.substr(data, start, size) + b"\0" * size, tf.zeros_like(start), size)
    values = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int64)
    powers = np.array([256**power for power in range(size)], np.int64)
    return tf.reduce_sum(values * (powers[::-1] if big else powers))


def decode_image(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """One image (PNG, JPEG, GIF, BMP) -> `[H, W, 3] uint8` RGB, transparency laid on white.

    Args:
        data: `[]` string, the file's bytes.

    Raises:
        InvalidArgumentError: when run, for other bytes or more than 50 million pixels.
    """
    png = tf.strings.substr(data, 0, 8) == b"\x89PNG\r\n\x1a\n"
    jpeg = tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"
    gif = tf.strings.substr(data, 0, 4) == b"GIF8"
    bmp = tf.strings.substr(data, 0, 2) == b"BM"
    known = tf.Assert(
        png | jpeg | gif | bmp, ["image: the bytes are no PNG, JPEG, GIF or BMP image; the length is", tf.strings.length(data)]
    )
    with tf.control_dependencies([known]):
        pixels = tf.case(
            [
                (png, lambda: _integer(data, 16, 4, True) * _integer(data, 20, 4, True)),
                (jpeg, lambda: tf.cast(tf.reduce_prod(tf.io.extract_jpeg_shape(data, tf.int64)[:2]), tf.int64)),
                (gif, lambda: _integer(data, 6, 2, False) * _integer(data, 8, 2, False)),
            ],
            # A BMP's height is negative when its rows run downwards.
            default=lambda: _integer(data, 18, 4, False) * _bmp_height(data),
        )
    bounded = tf.Assert(pixels <= max_pixels, [f"image: more than {max_pixels} pixels; the number is", pixels])
    with tf.control_dependencies([bounded]):
        # Color types 3, 4 and 6 can be transparent. Not asked of the others: decode_png gives grays of less than 8 bits
        # a wrong alpha.
        kind = _integer(data, 25, 1, True)
        rgb = tf.cond(
            png & (kind >= 3),
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


def decode_wav(data: tf.Tensor, max_seconds: float) -> tf.Tensor:
    """One WAV file -> `[T] float32, 16 kHz mono, in [-1, 1]`.

    `tf.audio.decode_wav` reads 16-bit files alone; this reads integers of 8, 16, 24 and 32 bits and floats of 32 and
    64, of any rate and number of channels, wherever the chunks lie.

    Args:
        data: `[]` string, the file's bytes.
        max_seconds: longer audio is refused.

    Raises:
        InvalidArgumentError: when run, for other bytes.
    """
    total = tf.strings.length(data)
    riff = (tf.strings.substr(data, 0, 4) == b"RIFF") & (tf.strings.substr(data, 8, 4) == b"WAVE")
    with tf.control_dependencies([tf.Assert(riff, ["audio: the bytes are no WAV file; the length is", total])]):
        data = tf.identity(data)
    fmt, _ = _chunk(data, b"fmt ")
    start, size = _chunk(data, b"data")
    code, channels = _integer(data, fmt, 2, False), _integer(data, fmt + 2, 2, False)
    rate, bits = _integer(data, fmt + 4, 4, False), _integer(data, fmt + 14, 2, False)
    # WAVE_FORMAT_EXTENSIBLE holds the real code in the first two bytes of its GUID.
    code = tf.where(code == 0xFFFE, _integer(data, fmt + 24, 2, False), code)
    integers = (code == 1) & ((bits == 8) | (bits == 16) | (bits == 24) | (bits == 32))
    floats = (code == 3) & ((bits == 32) | (bits == 64))
    good = (fmt >= 0) & (start >= 0) & (integers | floats) & (channels >= 1) & (channels <= 64)
    good &= (rate >= 1000) & (rate <= 768_000)
    checks = [
        tf.Assert(
            good,
            ["audio: not a WAV of 8-32 bit integers or floats; format, bits, channels, rate are", code, bits, channels, rate],
        )
    ]
    with tf.control_dependencies(checks):
        width = tf.maximum(channels, 1) * tf.maximum(bits // 8, 1)
        frames = tf.minimum(size, tf.cast(total, tf.int64) - start) // width
    long = tf.Assert(
        frames <= tf.cast(max_seconds * tf.cast(rate, tf.float64), tf.int64), ["audio: too long; frames are", frames]
    )
    with tf.control_dependencies([long]):
        raw = tf.strings.substr(data, start, tf.maximum(frames * width, 0))
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
    finite = tf.Assert(tf.reduce_all(tf.math.is_finite(samples)), ["audio: samples that are not finite numbers"])
    with tf.control_dependencies([finite]):
        mono = tf.reduce_mean(tf.reshape(samples, tf.stack([-1, tf.cast(channels, tf.int32)])), axis=1)
    mono = tf.cond(rate == SAMPLE_RATE, lambda: mono, lambda: resample(mono, rate))
    return tf.clip_by_value(mono, -1.0, 1.0)


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


def resample(wave: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Band-limited resampling to 16 kHz (Smith, Digital Audio Resampling: Hann-windowed sinc interpolation).

    Args:
        wave: `[T] float32`, at `rate`.
        rate: `[]` integer, Hz.

    Returns:
        `[round(T * 16000 / rate)] float32`.
    """
    ratio = tf.cast(rate, tf.float64) / SAMPLE_RATE  # input samples per output sample
    scale = tf.maximum(ratio, 1.0)  # the filter widens when the rate falls, so that nothing aliases
    half = tf.cast(tf.math.ceil(_ZEROS * scale), tf.int32)
    count = tf.cast(tf.round(tf.cast(tf.shape(wave)[0], tf.float64) / ratio), tf.int32)
    chunks = tf.maximum((count + _CHUNK - 1) // _CHUNK, 1)
    padded = tf.pad(wave, [[half + 1, half + 2 + tf.cast(ratio * _CHUNK, tf.int32)]])

    def chunk(number: tf.Tensor) -> tf.Tensor:
        moment = (tf.cast(number * _CHUNK, tf.float64) + tf.range(_CHUNK, dtype=tf.float64)) * ratio
        moment = tf.minimum(moment, tf.cast(tf.shape(wave)[0], tf.float64))
        whole = tf.floor(moment)
        taps = tf.range(-half, half + 1)
        offset = (tf.cast(taps, tf.float64)[None, :] - (moment - whole)[:, None]) / scale
        offset = tf.cast(offset, tf.float32)
        x = np.float32(np.pi) * offset
        sinc = tf.where(tf.abs(x) < 1e-6, 1.0, tf.sin(x) / tf.where(tf.abs(x) < 1e-6, 1.0, x))
        window = tf.where(tf.abs(offset) < _ZEROS, 0.5 + 0.5 * tf.cos(x / _ZEROS), 0.0)
        rows = tf.cast(whole, tf.int32)[:, None] + taps[None, :] + half + 1
        return tf.reduce_sum(tf.gather(padded, rows) * sinc * window, axis=1) / tf.cast(scale, tf.float32)

    parts = tf.map_fn(chunk, tf.range(chunks), fn_output_signature=tf.TensorSpec([_CHUNK], tf.float32))
    return tf.reshape(parts, [-1])[:count]
