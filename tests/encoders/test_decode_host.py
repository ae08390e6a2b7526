"""Audio decoded by tensorflow-io on the host: the samples of soundfile, for whole files and broken ones."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import OFFLINE, ROOT

from mmtfrs import Catalog, Config, encoders, extract
from mmtfrs._keras import tf
from mmtfrs.encoders import audio
from mmtfrs.errors import ConfigError, EncoderError, MediaError
from mmtfrs.media import decode, decode_host

TFIO = Config(encoders=OFFLINE, extraction={"decoder": "tensorflow-io"})
DIGITS = ROOT / "tests" / "files" / "digits"
_BROKEN = ("five-jackson-0.wav", "eight-george-1.wav", "eight-yweweler-5.wav")
needs_tfio = pytest.mark.skipif(not decode_host.available(), reason="tensorflow-io is not here, or not for this TensorFlow")

hangs = pytest.mark.timeout(120, method="thread")  # what could hang here is native code, which no signal ends


def _sound(rate, channels, name, subtype=None, seconds=0.3, gain=1.0):
    """Tones and noise, others in each channel; no codec clips them at a gain of 1."""
    rng = np.random.default_rng(rate + channels)
    time = np.arange(int(rate * seconds)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.outer(time, 1 + np.arange(channels)))
    wave += 0.03 * rng.normal(size=wave.shape)
    buffer = io.BytesIO()
    soundfile.write(buffer, gain * wave, rate, format=name, subtype=subtype)
    return buffer.getvalue()


def _without_tag(mp3):
    place = re.search(b"Xing|Info", mp3).start()
    return mp3[:place] + b"\0\0\0\0" + mp3[place + 4 :]


LAYOUTS = [
    *[
        ("WAV", subtype, rate, channels)
        for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32")
        for rate, channels in ((8000, 1), (16000, 2), (44100, 3))
    ],
    ("WAV", "FLOAT", 16000, 1),
    ("WAV", "DOUBLE", 16000, 2),
    *[
        ("FLAC", subtype, rate, channels)
        for subtype in ("PCM_S8", "PCM_16", "PCM_24")
        for rate, channels in ((8000, 1), (16000, 2), (44100, 2), (96000, 6))
    ],
    *[("OGG", "VORBIS", rate, channels) for rate, channels in ((8000, 1), (16000, 1), (22050, 2), (48000, 6))],
    *[
        ("MP3", None, rate, channels)  # MPEG-2.5, 2 and 1
        for rate, channels in ((8000, 1), (11025, 2), (16000, 1), (22050, 2), (44100, 2), (48000, 1))
    ],
]
_ID3 = b"ID3\x04\0\0\0\0\1\2" + b"\0" * 130  # 130 is 1 * 128 + 2: seven bits of a byte count


def _others():
    """Audio that is left to soundfile."""
    flac = _sound(8000, 1, "FLAC", "PCM_16")
    return {
        "aiff": _sound(22050, 2, "AIFF"),
        "opus": _sound(48000, 1, "OGG", "OPUS"),
        "loud": _sound(44100, 1, "WAV", "FLOAT", gain=4.0),  # clipped before it is resampled, it would be another sound
        "a-law": _sound(16000, 1, "WAV", "ALAW"),
        "no md5": flac[:26] + bytes(16) + flac[42:],
        "no tag": _without_tag(_sound(16000, 1, "MP3")),
    }


_traced = tf.function(decode_host.decode_audio_tensor, autograph=False)  # once for all tests: it takes a second


def _pipeline(sounds, decoder=_traced):
    dataset = tf.data.Dataset.from_tensor_slices(sounds).map(decoder, num_parallel_calls=2)
    assert dataset.element_spec == tf.TensorSpec([None], tf.float32)
    return dataset.as_numpy_iterator()


def _assert_same(found, expected):
    found = list(found)
    assert [len(wave) for wave in found] == [len(wave) for wave in expected]
    for wave, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(wave, reference, atol=1e-4)


def _soundfile_decoded(*_):
    raise AssertionError("soundfile decoded")


@pytest.fixture
def without_tfio(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)  # an import of it fails
    decode_host._tfio.cache_clear()
    yield
    monkeypatch.undo()
    decode_host._tfio.cache_clear()


@pytest.mark.slow
@needs_tfio
def test_every_layout_has_soundfiles_samples(monkeypatch):
    sounds = [_sound(rate, channels, name, subtype) for name, subtype, rate, channels in LAYOUTS]
    sounds += [_ID3 + sounds[-1], sounds[-1] + b"TAG" + bytes(125)]
    expected = [decode.decode_audio(data) for data in sounds]
    monkeypatch.setattr(decode, "decode_audio", _soundfile_decoded)
    _assert_same(_pipeline(sounds), expected)
    _assert_same([decode_host.decode_audio(data) for data in sounds], expected)


@needs_tfio
@pytest.mark.parametrize(
    ("name", "subtype"), [("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", None), ("MP3", None)]
)
def test_samples_that_need_no_resampling_are_the_files(name, subtype):
    data = _sound(16000, 2, name, subtype)
    samples, _ = soundfile.read(io.BytesIO(data))
    np.testing.assert_allclose(decode_host.decode_audio(data), samples.mean(axis=1), atol=3e-6)


def test_other_layouts_are_left_to_soundfile():
    sounds = _others()
    _assert_same(_pipeline(list(sounds.values())), [decode.decode_audio(data) for data in sounds.values()])


def test_without_tensorflow_io_soundfile_decodes(without_tfio):
    assert not decode_host.available()
    sounds = [_sound(rate, channels, name, subtype) for name, subtype, rate, channels in LAYOUTS[::5]]
    pipeline = _pipeline([*sounds, b"no sound"], decode_host.decode_audio_tensor)
    _assert_same([next(pipeline) for _ in sounds], [decode.decode_audio(data) for data in sounds])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not audio in a known format"):
        next(pipeline)


def _digits():
    paths = sorted((DIGITS / "audio").iterdir())
    return paths, [path for path in paths if path.name in _BROKEN]


@needs_tfio
def test_real_digits(monkeypatch):
    paths, broken = _digits()
    sounds = [path.read_bytes() for path in paths if path not in broken]
    expected = [decode.decode_audio(data) for data in sounds]
    for path in broken:
        with pytest.raises(MediaError) as refused:
            decode.decode_audio(path.read_bytes())
        with pytest.raises(MediaError, match=f"^{re.escape(str(refused.value))}$"):
            decode_host.decode_audio(path.read_bytes())
    monkeypatch.setattr(decode, "decode_audio", _soundfile_decoded)
    _assert_same(_pipeline(sounds), expected)


def test_real_digits_without_tensorflow_io(without_tfio):
    paths, broken = _digits()
    sounds = [path.read_bytes() for path in paths if path not in broken][::4]
    _assert_same(_pipeline(sounds, decode_host.decode_audio_tensor), [decode.decode_audio(data) for data in sounds])


def _broken():
    """Bytes that must be set aside, by name."""
    flac = _sound(16000, 1, "FLAC", "PCM_16", 2.0)
    frames = [match.start() for match in re.finditer(b"\xff\xf8[\\x00-\\xff]\x08", flac)]  # 4096 samples each
    assert len(frames) >= 5
    middle = frames[3] + 40
    wav, ogg, mp3 = _sound(8000, 1, "WAV"), _sound(16000, 1, "OGG"), _sound(16000, 1, "MP3")
    noise = io.BytesIO()
    soundfile.write(noise, np.array([0.0, np.nan, 1.0]), 16000, format="WAV", subtype="FLOAT")
    return {
        "empty.wav": b"",
        "text.wav": b"no sound at all",
        "cut.wav": wav[:1000],
        "nan.wav": noise.getvalue(),
        "long.wav": _sound(8000, 1, "WAV", seconds=4),
        "long.flac": _sound(8000, 1, "FLAC", seconds=4),
        "long.ogg": _sound(8000, 1, "OGG", seconds=4),
        "long.mp3": _sound(8000, 1, "MP3", seconds=4),
        "between.flac": flac[: frames[3]],  # decode_flac alone waits for ever
        "zeros.flac": flac[: frames[-1]] + bytes(len(flac) - frames[-1]),  # and here
        "within.flac": flac[:middle],
        "frame.flac": flac[:middle] + bytes([flac[middle] ^ 1]) + flac[middle + 1 :],  # decode_flac alone gives silence
        "head.ogg": ogg[:200],
        "head.mp3": mp3[:90],
    }


@needs_tfio
@hangs
def test_broken_files_are_set_aside_one_by_one(tmp_path, monkeypatch):
    files = {
        "good.wav": _sound(8000, 1, "WAV"),
        "good.flac": _sound(44100, 2, "FLAC"),
        "good.ogg": _sound(16000, 1, "OGG"),
        "good.mp3": _sound(22050, 1, "MP3"),
        **_broken(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    catalog = Catalog.from_dict({"item_id": list(files), "audio": list(files)}, folder=tmp_path)
    found = {}
    for decoder in ("soundfile", "tensorflow-io"):
        config = Config(encoders=OFFLINE, extraction={"decoder": decoder, "max_seconds": 3.0, "batch_size": 4})
        found[decoder] = extract(catalog, config, tmp_path / decoder, progress=False)
        monkeypatch.setattr(audio, "decode_audio", _soundfile_decoded)  # the second time, another function is asked
    reference, features = found["soundfile"], found["tensorflow-io"]
    without_address = [[(each.id, each.reason.split(" at 0x")[0]) for each in each.rejects] for each in (features, reference)]
    assert without_address[0] == without_address[1]
    reasons = dict(without_address[0])
    assert list(reasons) == [name for name in files if not name.startswith("good")]
    assert reasons["empty.wav"] == "the file is empty" and "cut short (956 of" in reasons["cut.wav"]
    for suffix in ("wav", "flac", "ogg", "mp3"):
        assert "lasts 4 s, more than extraction.max_seconds (3)" in reasons[f"long.{suffix}"]
    np.testing.assert_allclose(features.items["audio"][:], reference.items["audio"][:], atol=1e-4)
    # The same features, so what one decoder has left in a store is the other's too.
    again = extract(catalog, TFIO.replace(extraction={"max_seconds": 3.0}), tmp_path / "soundfile", progress=False)
    assert again.encoded == 0


@hangs
def test_broken_files_fail_a_pipeline():
    broken = {name: data for name, data in _broken().items() if "long" not in name}
    pipeline = _pipeline(list(broken.values()))
    for _ in broken:
        with pytest.raises(tf.errors.InvalidArgumentError):
            next(pipeline)
    with pytest.raises(StopIteration):
        next(pipeline)


def test_the_setting():
    assert Config().extraction.decoder == "soundfile"
    with pytest.raises(ConfigError, match="must be one of soundfile, tensorflow-io"):
        Config(extraction={"decoder": "tensorflow_io"})


def test_tensorflow_io_must_be_there_before_anything_is_decoded(without_tfio, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "load", lambda *_: pytest.fail("an encoder was loaded"))
    (tmp_path / "a.wav").write_bytes(_sound(8000, 1, "WAV"))
    catalog = Catalog.from_dict({"item_id": ["a"], "text": ["a"], "audio": ["a.wav"]}, folder=tmp_path)
    with pytest.raises(
        EncoderError, match=r"extraction.decoder is `tensorflow-io`.*pip install 'mmtfrs\[tfio\]' \(Python 3.10 or 3.11\)"
    ):
        extract(catalog, TFIO, tmp_path / "s", progress=False)
    with pytest.raises(EncoderError, match="pip install"):
        decode_host.decode_audio(b"")


def test_a_native_library_that_does_not_load_is_not_there(without_tfio, monkeypatch):
    def decode_flac(*_, **__):
        raise NotImplementedError("unable to open file: libtensorflow_io.so")

    monkeypatch.setitem(sys.modules, "tensorflow_io", SimpleNamespace(audio=SimpleNamespace(decode_flac=decode_flac)))
    decode_host._tfio.cache_clear()
    assert not decode_host.available()
