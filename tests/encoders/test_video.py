"""Videos, made here by PyAV: frames, sound track, and what reaches the feature store."""

from __future__ import annotations

import io

import numpy as np
import pytest

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.image import Fit
from mmtfrs.encoders.video import FramesEncoder, SoundTrackEncoder, pool_frames
from mmtfrs.errors import MediaError
from mmtfrs.media.video import sample_frames, sound_track

av = pytest.importorskip("av", reason="videos need PyAV")
BOUNDS = ExtractionConfig()
GRAYS = (20, 90, 160, 230)


def _to(size):
    return lambda frame: Fit().square(frame, size)


def _clip(path=None, frames_per_gray=6, sound=True, size=64) -> bytes:
    """Four grays, one after the other, at 12 frames a second, with a tone of 440 Hz at 22 050 Hz."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=22_050) if sound else None
        for gray in np.repeat(GRAYS, frames_per_gray):
            picture = np.full((size, size, 3), gray, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if audio is not None:
            wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 22_050)
            frame = av.AudioFrame.from_ndarray((32767 * wave).astype(np.int16)[None], format="s16", layout="mono")
            frame.rate = 22_050
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    data = buffer.getvalue()
    if path is not None:
        path.write_bytes(data)
    return data


def test_frames_are_spread_evenly():
    frames = sample_frames(_clip(), _to(32), ExtractionConfig(frames=4))
    assert frames.shape == (4, 32, 32, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), GRAYS, atol=6)
    many = sample_frames(_clip(frames_per_gray=40), _to(8), ExtractionConfig(frames=4))
    np.testing.assert_allclose(many.mean(axis=(1, 2, 3)), GRAYS, atol=6)
    assert len(sample_frames(_clip(frames_per_gray=1), _to(8), BOUNDS)) == 4  # fewer than asked for


def test_sound_track_is_resampled():
    wave = sound_track(_clip(), 60.0)
    assert wave.dtype == np.float32 and abs(len(wave) - 32_000) < 200
    spectrum = np.abs(np.fft.rfft(wave[4000:20_000]))
    assert spectrum.argmax() == 440 and abs(np.abs(wave).max() - 0.5) < 0.05


def test_pooling_by_hand():
    features, clips = tf.constant([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [4.0, 4.0]]), tf.constant([0, 0, 0, 1])
    np.testing.assert_allclose(pool_frames(features, clips, "mean"), [[1 / 3, 2 / 3], [4, 4]], rtol=1e-6)
    mean = np.array([1 / 3, 2 / 3])
    scores = np.array([mean[0], mean[1], mean[1]]) / np.mean(mean**2) / np.sqrt(2)
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(pool_frames(features, clips, "attention"), [[weights[0], weights[1:].sum()], [4, 4]], rtol=1e-5)


def test_features_are_those_of_the_frames_and_the_sound():
    image, audio = encoders.load("image", "offline"), encoders.load("audio", "offline")
    bounds, data = ExtractionConfig(frames=4), _clip()
    features, present = FramesEncoder(image, bounds).encode([data, b"no video", None], bounds)
    assert present.tolist() == [True, False, False]
    expected = image.encode_batch(list(sample_frames(data, _to(image.size), bounds))).mean(axis=0)
    np.testing.assert_allclose(features[0], expected, rtol=1e-4, atol=1e-5)
    heard, _ = SoundTrackEncoder(audio).encode([data])
    np.testing.assert_allclose(heard[0], audio.encode_batch([sound_track(data, 60.0)])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "bounds", "message"),
    [
        (b"", BOUNDS, "the file is empty"),
        (b"just text, no video at all", BOUNDS, "not a video in a known format"),
        (_clip(), ExtractionConfig(max_pixels=100), "64 x 64 pixels, more than extraction.max_pixels"),
        (_clip(), ExtractionConfig(max_seconds=0.5), "longer than extraction.max_seconds"),
    ],
)
def test_bad_videos(data, bounds, message):
    with pytest.raises(MediaError, match=message):
        sample_frames(data, _to(32), bounds)
    with pytest.raises(MediaError, match="no audio"):
        sound_track(_clip(sound=False), 60.0)


def test_a_catalog_with_videos(tmp_path):
    """A video stands in for what an item lacks; its own image comes first; silence is no mistake."""
    from PIL import Image

    _clip(tmp_path / "loud.mkv")
    _clip(tmp_path / "silent.mkv", sound=False)
    (tmp_path / "broken.mkv").write_bytes(_clip()[:200])
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    catalog = mmtfrs.Catalog.from_dict(
        {
            "item_id": list("abcd"),
            "image": ["a.png", "", "", ""],
            "video": ["loud.mkv", "loud.mkv", "silent.mkv", "broken.mkv"],
        },
        tmp_path,
    )
    assert catalog.modalities == ("image", "video")
    config = mmtfrs.Config(encoders={"image": "offline", "audio": "offline", "text": "offline"})
    features = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    assert features.items["image"].present.tolist() == [True, True, True, False]
    assert features.items["audio"].present.tolist() == [True, True, False, False]
    assert {(each.id, each.modality) for each in features.rejects} == {("d", "video")}
    assert np.abs(features.items["image"][0] - features.items["image"][1]).max() > 1e-3
    again = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    assert again.encoded == 0 and (again.items["image"][:] == features.items["image"][:]).all()
