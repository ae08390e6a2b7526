"""The batched YAMNet against the published algorithm's own outputs on real audio."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.audio import cut_patches, patch_counts
from mmtfrs.encoders.yamnet import YAMNet, log_mel
from mmtfrs.errors import EncoderError

CLIPS = ("speech", "dance", "sine440", "silence", "short")


@pytest.fixture(scope="module")
def golden(real):
    with np.load(real / "yamnet" / "golden.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def network(real):
    return YAMNet(real / "yamnet" / "yamnet.h5")


def _padded(waves):
    batch = np.full((len(waves), max(map(len, waves)) + 5000), 9.0, np.float32)  # what lies behind must not matter
    for row, wave in enumerate(waves):
        batch[row, : len(wave)] = wave
    return batch, np.array([len(wave) for wave in waves], np.int32)


@pytest.mark.parametrize("clip", CLIPS)
def test_log_mel(golden, clip):
    wave = golden[f"{clip}/waveform"]
    patches, _ = cut_patches(wave[None], tf.constant([len(wave)], tf.int32))
    frames = log_mel(patches).numpy()
    expected = golden[f"{clip}/log_mel"]
    for number, patch in enumerate(frames):
        np.testing.assert_allclose(patch, expected[48 * number : 48 * number + 96], atol=1e-3)
    assert 48 * (len(frames) - 1) + 96 == len(expected)


@pytest.mark.parametrize("clip", CLIPS)
def test_each_clip_alone(golden, network, clip):
    embeddings, scores = network.classify(*_padded([golden[f"{clip}/waveform"]]))
    np.testing.assert_allclose(embeddings[0], golden[f"{clip}/embeddings"], atol=1e-3)
    np.testing.assert_allclose(scores[0], golden[f"{clip}/scores"], atol=1e-3)


def test_all_clips_in_one_padded_batch(golden, network):
    embeddings, _ = network.classify(*_padded([golden[f"{clip}/waveform"] for clip in CLIPS]))
    for clip, found in zip(CLIPS, embeddings, strict=True):
        np.testing.assert_allclose(found, golden[f"{clip}/embeddings"], atol=1e-3)


def test_mean_scores_name_the_sounds(golden, network, real):
    with (real / "yamnet" / "yamnet_class_map.csv").open() as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    _, scores = network.classify(*_padded([golden[f"{clip}/waveform"] for clip in CLIPS]))
    best = {clip: names[found.mean(axis=0).argmax()] for clip, found in zip(CLIPS, scores, strict=True)}
    assert (best["speech"], best["dance"], best["silence"]) == ("Speech", "Music", "Silence")


@pytest.mark.slow
def test_encoder_gives_the_mean_over_patches(golden, real, tmp_path):
    import soundfile

    encoder = encoders.load("audio", real / "yamnet" / "yamnet.h5")
    paths = []
    for clip in CLIPS:
        paths.append(tmp_path / f"{clip}.wav")
        soundfile.write(paths[-1], golden[f"{clip}/waveform"], 16000, subtype="FLOAT")
    features, present = encoder.encode([*paths, tmp_path / "missing.wav", None])
    assert present.tolist() == [True] * 5 + [False] * 2
    for row, clip in enumerate(CLIPS):
        np.testing.assert_allclose(features[row], golden[f"{clip}/embeddings"].mean(axis=0), atol=1e-3)
    assert not features[5:].any()
    data = tf.constant([path.read_bytes() for path in paths])
    np.testing.assert_allclose(encoder.encode_serialized(data, ExtractionConfig())[0].numpy(), features[:5], atol=1e-4)


@pytest.mark.parametrize(("samples", "patches"), [(0, 1), (1, 1), (15600, 1), (15601, 2), (15600 + 7680, 2), (15600 + 7681, 3)])
def test_patch_counts_pad_as_the_original(samples, patches):
    assert patch_counts(tf.constant([samples])).numpy().tolist() == [patches]


def test_random_weights_do_not_leak_between_clips():
    network = YAMNet()
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-1, 1, size).astype(np.float32) for size in (3000, 40_000, 16_000, 100_000)]
    together, _ = network.classify(*_padded(waves))
    for wave, found in zip(waves, together, strict=True):
        alone, _ = network.classify(*_padded([wave]))
        np.testing.assert_allclose(found, alone[0], atol=1e-5)


def test_other_weights_are_refused(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="not a YAMNet checkpoint"):
        encoders.load("audio", tmp_path / "x.h5")
