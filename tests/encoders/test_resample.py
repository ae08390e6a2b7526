"""Resampling in the graph, held against soxr, which the host resamples by."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import soxr

from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.exporting.request import wav_bytes
from mmtfrs.media.decode import SAMPLE_RATE, decode_audio
from mmtfrs.media.resample import resample

_RUN = tf.function(resample, input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64)])


def _resampled(wave, rate):
    return _RUN(tf.constant(wave, tf.float32), tf.constant(rate, tf.int64)).numpy()


def _faded(wave, rate):
    """Without an edge, which would be as wide as the spectrum."""
    ramp = np.minimum(np.arange(len(wave)), np.arange(len(wave))[::-1]) / (0.1 * rate)
    return wave * (0.5 - 0.5 * np.cos(np.pi * np.minimum(ramp, 1.0)))


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 11_127, 22_050, 44_100, 44_101, 48_000, 192_000])
def test_as_soxr_up_to_nine_tenths_of_the_lower_nyquist_frequency(rate):
    rng, length = np.random.default_rng(rate), 2 * rate
    spectrum = np.zeros(length // 2 + 1, complex)
    band = slice(1, int(0.9 * min(rate, SAMPLE_RATE) / 2 * 2))  # in steps of half a Hz
    spectrum[band] = rng.normal(size=band.stop - 1) + 1j * rng.normal(size=band.stop - 1)
    wave = np.fft.irfft(spectrum, length)
    wave = _faded(0.5 * wave / np.abs(wave).max(), rate)
    np.testing.assert_allclose(_resampled(wave, rate), soxr.resample(wave, rate, SAMPLE_RATE, "VHQ"), atol=2e-4)


@pytest.mark.parametrize(
    ("rate", "tones"), [(8000, (100, 2500, 3999)), (11_025, (5000, 5500)), (44_100, (8001, 12_000, 22_000))]
)
def test_aliases_and_images_are_80_decibels_below(rate, tones):
    for tone in tones:
        found = _resampled(_faded(np.sin(2 * np.pi * tone * np.arange(2 * rate) / rate), rate), rate)
        level = np.abs(np.fft.rfft(found * np.hanning(len(found)))) / (len(found) / 4)
        wrong = level[np.fft.rfftfreq(len(found), 1 / SAMPLE_RATE) > rate / 2] if rate < SAMPLE_RATE else level
        assert wrong.max() < 1e-4, tone


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_raw_bytes_have_the_features_that_the_client_sends(real, tmp_path, rate):
    """The trained YAMNet on real speech, with some noise over the whole band, as files of this rate."""
    encoder, rng = _yamnet(real), np.random.default_rng(0)
    raw, sent = [], []
    for path in sorted((real / "digits" / "audio").glob("zero-*.wav"))[:6]:
        wave = soxr.resample(decode_audio(path.read_bytes()), SAMPLE_RATE, rate)
        buffer = io.BytesIO()
        soundfile.write(buffer, wave + rng.normal(size=len(wave)) / 100, rate, format="WAV", subtype="PCM_16")
        (tmp_path / "clip.wav").write_bytes(buffer.getvalue())
        raw.append(buffer.getvalue())
        sent.append(wav_bytes(tmp_path / "clip.wav"))
    assert raw
    features, problems = encoder.encode_serialized(tf.constant(raw + sent), ExtractionConfig())
    assert not b"".join(problems.numpy())
    units = features / tf.norm(features, axis=1, keepdims=True)
    cosines = tf.reduce_sum(units[: len(raw)] * units[len(raw) :], axis=1).numpy()
    assert cosines.min() > 0.9999


_LOADED: dict = {}


def _yamnet(real):
    if not _LOADED:
        _LOADED["yamnet"] = encoders.load("audio", real / "yamnet" / "yamnet.h5")
    return _LOADED["yamnet"]
