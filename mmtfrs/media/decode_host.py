"""Bytes of audio -> samples in a `tf.data` graph on the host, by tensorflow-io where it is installed.

The samples are those of `decode.decode_audio`: FLAC (8, 16, 24 bits) the same integers, Ogg Vorbis to 3e-7, MP3 to 2e-6,
its encoder's delay and padding cut alike. WAV is read by `decode_graph.decode_wav`. soxr resamples all, in a
`tf.numpy_function`: `resample.resample` differs from it by up to 2e-4.

tensorflow-io's kernels trust their input: they get only files whose header claims no more than `max_seconds`. Besides,
    FLAC: one that ends between two frames hangs them for ever, so frames that they refuse are appended (`_GUARD`).
        Damaged frames become silence without an error, so the header's MD5 of the samples is checked.
    Vorbis: chained files may change their number of channels, past the end of a buffer, so one stream per file.
    MP3: lost frames are skipped without an error, so the length must be that of the tag in the first frame. Damage that
        leaves the length alone is noticed by neither decoder, and sounds different in each.
The rest (AIFF, Opus, other depths, headers that do not fit the file) is left to soundfile.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr

from mmtfrs._keras import tf
from mmtfrs.errors import EncoderError, MediaError
from mmtfrs.media import decode
from mmtfrs.media.decode import SAMPLE_RATE
from mmtfrs.media.decode_graph import _chunk, _integer, code_of, decode_wav

# FLAC frames of 192 zeros each, from sample 2**36 - 1 on, where no file gets to; many, as a damaged frame swallows some.
_GUARD = bytes.fromhex("fff91002febfbfbfbfbfbfd6000054d6") * 4096


@functools.cache
def _tfio() -> Any:
    """tensorflow_io, or None where it is not installed or its native library does not load."""
    try:
        import tensorflow_io

        with tf.init_scope():  # the native library is loaded when it is first run
            tensorflow_io.audio.decode_flac(b"fLaC", dtype=tf.int16)
    except tf.errors.InvalidArgumentError:  # it has run, and says that these bytes are no FLAC
        return tensorflow_io
    except Exception:  # a library for another TensorFlow fails in more ways than ImportError
        return None


def available() -> bool:
    """tensorflow-io can be used here."""
    return _tfio() is not None


def require() -> None:
    """Raises `EncoderError`, which names the remedy, where tensorflow-io cannot be used."""
    if not available():
        raise EncoderError(
            "extraction.decoder is `tensorflow-io`, which is not installed here or does not fit this TensorFlow: "
            "pip install 'mmtfrs[tfio]' (Python 3.10 or 3.11). `soundfile` decodes everywhere, to the same samples."
        )


def decode_audio(data: bytes, max_seconds: float = 600.0) -> np.ndarray:
    """As `decode.decode_audio`, by tensorflow-io: `[T] float32, 16 kHz mono, in [-1, 1]`. Thread-safe.

    What fails is decoded again by soundfile, so that both decoders set the same media aside, for the same reasons.

    Raises:
        EncoderError: tensorflow-io cannot be used here.
        MediaError: this is no audio, is damaged or cut short, or is longer than `max_seconds`.
    """
    require()
    try:
        return _decode(tf.constant(data), tf.constant(max_seconds, tf.float64)).numpy()
    except tf.errors.OpError:
        return decode.decode_audio(data, max_seconds)


@tf.autograph.experimental.do_not_convert
def decode_audio_tensor(data: tf.Tensor, max_seconds: float | tf.Tensor = 600.0) -> tf.Tensor:
    """Audio in any format, by soundfile where tensorflow-io is absent; for a host's graph, which cannot be exported.

    Args:
        data: `[]` string, the file's bytes.
        max_seconds: longer audio is refused; a float or `[]` float64.

    Returns:
        `[T] float32, 16 kHz mono, in [-1, 1]`; T may be 0.

    Raises:
        InvalidArgumentError: when run, for audio that is damaged, too long or in no known format.
    """
    max_seconds = tf.cast(max_seconds, tf.float64)
    if not available():
        return _soundfile(data, max_seconds)
    magic = _integer(data, 0, 4, True)
    wav = (magic == code_of(b"RIFF")) & (_integer(data, 8, 4, True) == code_of(b"WAVE"))
    size = sum(_integer(data, 6 + place, 1, True) * 128 ** (3 - place) for place in range(4))
    start = tf.where(magic // 256 == code_of(b"ID3"), 10 + size, 0)
    mpeg = tf.bitwise.bitwise_and(_integer(data, start, 2, True), 0xFFE6) == 0xFFE2  # synchronization, layer III
    flac, ogg = magic == code_of(b"fLaC"), magic == code_of(b"OggS")
    kinds: list[tuple[tf.Tensor, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]]
    kinds = [(wav, _wav), (flac, _flac), (ogg, _vorbis), (mpeg, functools.partial(_mp3, start))]
    cases = [(found, functools.partial(read, data, max_seconds)) for found, read in kinds]
    return tf.ensure_shape(tf.case(cases, default=functools.partial(_soundfile, data, max_seconds)), [None])


_decode = tf.function(decode_audio_tensor, autograph=False)


def _wav(data: tf.Tensor, max_seconds: tf.Tensor) -> tf.Tensor:
    fmt, _ = _chunk(data, b"fmt ")
    start, size = _chunk(data, b"data")
    code, channels, block, bits = (_integer(data, fmt + place, 2, False) for place in (0, 2, 12, 14))
    rate = _integer(data, fmt + 4, 4, False)
    total = tf.cast(tf.strings.length(data), tf.int64)
    # Floats may exceed 1, and decode_wav clips before soxr resamples.
    known = ((code == 1) & (bits <= 32)) | ((code == 3) & (bits >= 32) & (rate == SAMPLE_RATE))
    known &= (fmt >= 0) & (bits % 8 == 0) & (block > 0) & (block * 8 == channels * bits) & (channels <= 64)
    known &= (rate >= 1000) & (rate <= 768_000) & (start > 0)

    def read() -> tf.Tensor:
        before, after = tf.strings.substr(data, 0 * fmt, fmt + 4), tf.strings.substr(data, fmt + 8, total)
        told = tf.strings.join([before, SAMPLE_RATE.to_bytes(4, "little"), after])  # so that decode_wav does not resample
        return decode_wav(told, 1e9)[0][:, None]

    return _either(known, read, size // tf.maximum(block, 1), rate, data, max_seconds)


def _flac(data: tf.Tensor, max_seconds: tf.Tensor) -> tf.Tensor:
    frames, rate = _integer(data, 21, 5, True) % 2**36, _integer(data, 18, 3, True) // 16
    bits = _integer(data, 20, 2, True) // 16 % 32 + 1
    known = (bits == 8) | (bits == 16) | (bits == 24)
    known &= (_integer(data, 4, 1, True) % 128 == 0) & (_integer(data, 26, 7, True) > 0)  # an encoder may leave the MD5 out

    def read(dtype: tf.DType) -> tf.Tensor:
        samples = _tfio().audio.decode_flac(tf.strings.join([data, _GUARD]), dtype=dtype)
        return tf.ensure_shape(tf.numpy_function(_intact, [data, samples], tf.float32), [None, None])

    cases = [(bits == 8, lambda: read(tf.uint8)), (bits == 16, lambda: read(tf.int16)), (bits == 24, lambda: read(tf.int32))]
    return _either(known, lambda: tf.case(cases), frames, rate, data, max_seconds)


def _vorbis(data: tf.Tensor, max_seconds: tf.Tensor) -> tf.Tensor:
    pages = tf.strings.split(data, b"OggS")[1:]
    first = tf.reduce_sum(tf.cast(tf.io.decode_raw(tf.strings.substr(pages, 1, 1), tf.uint8), tf.int32) // 2 % 2)
    known = (first == 1) & (_integer(data, 26, 3, True) == 0x011E01) & (_integer(data, 29, 6, True) == code_of(b"vorbis"))
    frames = _integer(pages[-1], 2, 8, False)  # where the last page ends
    return _either(known, lambda: _tfio().audio.decode_vorbis(data), frames, _integer(data, 40, 4, False), data, max_seconds)


def _mp3(start: tf.Tensor, data: tf.Tensor, max_seconds: tf.Tensor) -> tf.Tensor:
    header = _integer(data, start, 4, True)
    version, mono = header // 2**19 % 4, header // 64 % 4 == 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    rates = tf.constant([[11025, 12000, 8000, 0], [0] * 4, [22050, 24000, 16000, 0], [44100, 48000, 32000, 0]], tf.int64)
    rate = tf.gather_nd(rates, [version, header // 1024 % 4])
    tag = start + 4 + tf.cast(tf.where(version == 3, tf.where(mono, 17, 32), tf.where(mono, 9, 17)), tf.int64)
    name, flags, count, size = (_integer(data, tag + place, 4, True) for place in (0, 4, 8, 12))
    delay, padding = _integer(data, tag + 141, 2, True) // 16, _integer(data, tag + 142, 2, True) % 4096
    frames = count * tf.where(version == 3, np.int64(1152), np.int64(576)) - delay - padding
    rest = tf.cast(tf.strings.length(data), tf.int64) - start - size  # an ID3v1 tag has 128 bytes
    known = ((name == code_of(b"Xing")) | (name == code_of(b"Info"))) & (flags == 15) & ((rest == 0) | (rest == 128))
    return _either(known, lambda: _tfio().audio.decode_mp3(data), frames, rate, data, max_seconds)


def _soundfile(data: tf.Tensor, max_seconds: tf.Tensor) -> tf.Tensor:
    def decoded(data: bytes, max_seconds: float) -> np.ndarray:
        try:
            return decode.decode_audio(data, float(max_seconds))
        except MediaError as error:
            raise ValueError(str(error)) from None  # TensorFlow makes an InvalidArgumentError of it

    return tf.ensure_shape(tf.numpy_function(decoded, [data, max_seconds], tf.float32), [None])


def _either(
    known: tf.Tensor, read: Callable[[], tf.Tensor], frames: tf.Tensor, rate: tf.Tensor, data: tf.Tensor, max_seconds: tf.Tensor
) -> tf.Tensor:
    """What `read()` gives (`[T, C] float32` at `rate`) if the file is `known` to suit it and T is `frames`; else soundfile."""
    by_soundfile = functools.partial(_soundfile, data, max_seconds)

    def resampled() -> tf.Tensor:
        mono = tf.reduce_mean(read(), axis=1)
        whole = tf.shape(mono, tf.int64)[0] == frames
        return tf.cond(whole, lambda: tf.numpy_function(_by_soxr, [mono, rate], tf.float32), by_soundfile)

    short = (frames > 0) & (tf.cast(frames, tf.float64) <= max_seconds * tf.cast(rate, tf.float64))
    return tf.cond(known & short, resampled, by_soundfile)


def _by_soxr(mono: np.ndarray, rate: int) -> np.ndarray:
    if not np.isfinite(mono).all():
        raise ValueError("the audio has samples that are not finite numbers")
    mono = soxr.resample(mono, int(rate), SAMPLE_RATE) if rate != SAMPLE_RATE else mono
    return np.clip(mono, -1.0, 1.0).astype(np.float32)


def _intact(data: bytes, samples: np.ndarray) -> np.ndarray:
    """A FLAC's samples (uint8, int16, or int32 with 24 bits above an empty byte) -> float32; none if the MD5 is another."""
    if samples.dtype == np.uint8:
        samples = (samples ^ 0x80).view(np.int8)
    packed = samples.view(np.uint8).reshape(-1, 4)[:, 1:] if samples.itemsize == 4 else samples
    same = hashlib.md5(packed.tobytes(), usedforsecurity=False).digest() == data[26:42]
    return samples[: len(samples) * same].astype(np.float32) / np.float32(2 ** (8 * samples.itemsize - 1))
