"""Decoding on the host and in the graph: every layout, and both the same."""

from __future__ import annotations

import functools
import io
import struct

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmtfrs._keras import tf
from mmtfrs.errors import MediaError
from mmtfrs.media import decode, decode_graph

LIMIT = 50_000_000


def _picture(mode="RGB", size=(20, 30)):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def _bytes(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


# Traced once: what takes time is the graph, not the media.
_ONE, _MANY = tf.TensorSpec([], tf.string), tf.TensorSpec([None], tf.string)
_IMAGE = tf.function(decode_graph.decode_image, input_signature=[_ONE])
_WAV = tf.function(functools.partial(decode_graph.decode_wav, max_seconds=600.0), input_signature=[_ONE])
_IMAGES = tf.function(
    lambda data: decode_graph.decode_images(data, LIMIT, lambda picture: picture[:1, :1], tf.TensorSpec([1, 1, 3], tf.uint8)),
    input_signature=[_MANY],
)


def _graph_image(data):
    return _IMAGE(tf.constant(data)).numpy()


@pytest.mark.parametrize(
    ("mode", "name"),
    [(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "GIF"), ("L", "GIF"), ("RGB", "BMP"), ("L", "BMP")],
)
def test_every_layout_gives_rgb_on_host_and_in_graph(mode, name):
    image = _picture(mode)
    data = _bytes(image, name)
    host = np.asarray(decode.open_image(data, LIMIT))
    assert host.shape == (30, 20, 3) and host.dtype == np.uint8
    graph = _graph_image(data)
    tolerance = 40 if mode == "CMYK" else (6 if name == "JPEG" else 1)  # decoders round color conversion differently
    assert np.abs(host.astype(int) - graph).max() <= tolerance
    if name == "PNG" and mode == "RGB":
        np.testing.assert_array_equal(host, np.asarray(image))


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 2), (10, 20, 30, 255))
    data = _bytes(image, "PNG")
    for result in (np.asarray(decode.open_image(data, LIMIT)), _graph_image(data)):
        assert result[0, 0].tolist() == [255, 255, 255] and result[2, 1].tolist() == [10, 20, 30]


def test_sixteen_bits_keep_their_upper_eight():
    values = np.array([[0, 256 * 7, 65535]], np.uint16)
    data = _bytes(Image.fromarray(values), "PNG")
    assert np.asarray(decode.open_image(data, LIMIT))[0, :, 0].tolist() == [0, 7, 255]


def test_exif_orientation_is_followed():
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode.open_image(_bytes(image, "JPEG", exif=exif), LIMIT).size == (20, 40)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"this is no image", "not an image in a known format"),
        (_bytes(_picture(), "PNG")[:200], "the image is damaged"),
        (_bytes(_picture(), "JPEG")[:300], "the image is damaged"),
    ],
)
def test_bad_pictures(data, message):
    with pytest.raises(MediaError, match=message):
        decode.open_image(data, LIMIT)
    good = _bytes(Image.new("RGB", (4, 4), (10, 20, 30)), "PNG")
    pixels, problems = _IMAGES(tf.constant([good, data, good, data]))  # the rows beside it are what they were
    assert pixels.numpy()[:, 0, 0].tolist() == [[10, 20, 30], [0, 0, 0]] * 2
    said = b"the bytes are no PNG, JPEG, GIF or BMP image" if "damaged" not in message else b"the file is damaged"
    assert problems.numpy().tolist() == [b"", b"image: " + said] * 2


def _png_header(width, height):
    import zlib

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def test_a_huge_picture_is_refused_from_its_header():
    with pytest.raises(MediaError, match=r"10000 x 10000 pixels, more than extraction.max_pixels \(50000000\)"):
        decode.open_image(_png_header(10_000, 10_000), LIMIT)
    data = _png_header(20_000, 20_000)
    with pytest.raises(MediaError, match=r"more pixels than extraction.max_pixels \(50000000\).*400000000 pixels"):
        decode.open_image(data, LIMIT)
    assert _IMAGES(tf.constant([data]))[1].numpy().tolist() == [b"image: more than 50000000 pixels"]


def _tone(rate, seconds=0.5, channels=1):
    time = np.arange(int(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * time)
    return np.stack([wave] * channels, axis=1) if channels > 1 else wave


def _sound(wave, rate, name="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=name, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (16000, 1), (48000, 1)])
def test_every_format_rate_and_channel_count(name, rate, channels):
    wave = decode.decode_audio(_sound(_tone(rate, 0.5, channels), rate, name))
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert abs(len(wave) - 8000) <= (1700 if name == "MP3" else 2)  # MP3 pads to whole frames
    middle = wave[2000:6000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(4000)))
    assert spectrum.argmax() == 110  # 440 Hz in steps of 4 Hz
    assert abs(np.sqrt((middle**2).mean()) - 0.5 / np.sqrt(2)) < 0.02


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1), (11127, 3)])
def test_graph_reads_wav_as_the_host_does(subtype, rate, channels):
    rng = np.random.default_rng(0)
    # Band-limited to 2.5 kHz, so that two resamplers may be compared.
    spectrum = np.zeros(rate // 4 + 1, complex)
    spectrum[: int(2500 * 0.5)] = rng.normal(size=int(2500 * 0.5)) + 1j * rng.normal(size=int(2500 * 0.5))
    wave = np.fft.irfft(spectrum)
    wave = 0.4 * wave / np.abs(wave).max()
    data = _sound(np.stack([wave] * channels, axis=1), rate, subtype=subtype)
    host = decode.decode_audio(data)
    wave, problem = _WAV(tf.constant(data))
    graph = wave.numpy()
    assert abs(len(host) - len(graph)) <= 1 and problem.numpy() == b""
    inner = slice(400, min(len(host), len(graph)) - 400)
    tolerance = 1e-6 if rate == 16000 else 4e-4  # soxr interpolates its filter where rates have no small ratio
    np.testing.assert_allclose(graph[inner], host[inner], atol=tolerance)


def test_wav_with_other_chunks_first():
    data = _sound(_tone(16000), 16000)
    extra = data[:12] + b"LIST" + struct.pack("<I", 5) + b"hello\0" + data[12:]
    np.testing.assert_array_equal(_WAV(tf.constant(extra))[0].numpy(), decode.decode_audio(data))


def test_empty_sound_has_no_samples():
    assert len(decode.decode_audio(_sound(np.zeros(0), 16000))) == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"no sound at all", "not audio in a known format"),
        (_bytes(_picture(), "PNG"), "not audio in a known format"),
        (_sound(_tone(16000), 16000)[:1000], r"cut short \(956 of 16000 bytes\)"),
        (_sound(np.array([0.0, np.nan, 1.0]), 16000, subtype="FLOAT"), "not finite"),
    ],
    ids=["empty", "text", "picture", "cut", "not finite"],  # the bytes of audio hold the time at which it was written
)
def test_bad_sounds(data, message):
    with pytest.raises(MediaError, match=message):
        decode.decode_audio(data)


_UNFIT = "audio: not a WAV of 8-32 bit integers or floats; format, bits, channels, rate are "


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"no sound", "audio: the bytes are no WAV file"),
        (b"RIFF\0\0\0\0WAVE", _UNFIT + "0, 0, 0, 0"),
        (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff", _UNFIT + "0, 0, 0, 0"),
        (_sound(_tone(900), 900), _UNFIT + "1, 16, 1, 900"),
        (_sound(_tone(16000), 16000)[:1000], "audio: the file is cut short"),
        (_sound(np.array([0.0, np.nan, 1.0]), 16000, subtype="FLOAT"), "audio: samples that are not finite numbers"),
        (_sound(np.zeros(601 * 1000), 1000, subtype="PCM_U8"), "audio: longer than 600 s"),
    ],
    ids=["text", "no chunks", "no size", "a rate", "cut", "not finite", "long"],
)
def test_bad_sounds_in_the_graph(data, problem):
    wave, said = _WAV(tf.constant(data))
    assert said.numpy().decode() == problem and not len(wave)


def test_an_hour_of_sound_is_bounded():
    data = _sound(np.zeros(3600 * 100), 100)
    with pytest.raises(MediaError, match=r"lasts 3600 s, more than extraction.max_seconds \(600\)"):
        decode.decode_audio(data, max_seconds=600)


def test_files(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        decode.read_file(tmp_path / "x", 10)
    with pytest.raises(MediaError, match="this is a folder"):
        decode.read_file(tmp_path, 10)
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(MediaError, match="11 bytes, more than extraction.max_bytes"):
        decode.read_file(tmp_path / "big", 10)
