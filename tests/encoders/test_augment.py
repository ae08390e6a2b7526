"""Augmented views: what is altered, that the same ones come again, and where a model draws them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FAST
from PIL import Image

import mmtfrs
from mmtfrs._keras import tf
from mmtfrs.encoders.augment import view_audio, view_image, view_text

WORDS = [f"word{number}" for number in range(200)]


def test_a_view_is_the_medium_altered():
    draw = np.random.default_rng(0)
    kept = view_text(" ".join(WORDS), draw).split()
    assert kept == [word for word in WORDS if word in set(kept)]  # in order
    assert 150 <= len(kept) <= 189  # 170 +- 5 in the mean
    assert all(view_text("one", draw) == "one" for _ in range(50)) and view_text("", draw) == ""

    ramp = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (40, 100, 3))
    views = [view_image(ramp, draw) for _ in range(40)]
    assert all(view.shape == ramp.shape and view.dtype == np.uint8 for view in views)
    rising = [np.diff(view[20, :, 0].astype(int)).sum() > 0 for view in views]
    assert 8 <= sum(rising) <= 32  # about half of them are mirrored
    # Of a part the ramp is less steep: between the root of the least area and all of it, in any light.
    spans = [np.ptp(view[20, :, 0].astype(int)) for view in views]
    assert min(spans) >= 198 * 0.7**0.5 * 0.7**2 - 6 and len(set(spans)) > 20
    assert view_image(np.zeros((1, 1, 3), np.uint8), draw).shape == (1, 1, 3)

    noise = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    for _ in range(20):
        view = view_audio(noise, draw)
        silent = np.flatnonzero(view == 0.0)
        assert view.shape == noise.shape and view.dtype == np.float32 and np.abs(view).max() <= 1.0
        assert len(silent) <= 3200 + 5 and (not len(silent) or np.ptp(silent) < 3200 + 5)
    gone = [np.abs(np.fft.rfft(view_audio(noise, draw))).min() for _ in range(5)]
    assert view_audio(np.zeros(0, np.float32), draw).shape == (0,) and min(gone) < np.abs(np.fft.rfft(noise)).mean() / 10


@pytest.fixture
def catalog(tmp_path):
    draw = np.random.default_rng(3)
    for name in ("a", "b"):
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{name}.png")
    lines = "a,a.png,a red shoe made of soft leather\nb,b.png,one long dress of heavy green silk\nc,a.png,\nd,none.png,x\n"
    (tmp_path / "items.csv").write_text(f"item_id,image,text\n{lines}")
    return mmtfrs.Catalog.read(tmp_path / "items.csv")


def _config(views):
    return mmtfrs.Config(encoders={"image": "offline", "text": "offline"}, extraction={"augment": {"views": views}}, **FAST)


def test_views_are_made_once_and_come_again(catalog, tmp_path):
    found = mmtfrs.extract(catalog, _config(3), tmp_path / "store", progress=False)
    # 2 images and 3 texts, each as it is and 3 times altered; what cannot be read is set aside once.
    assert found.encoded == 4 * (2 + 3) and [each.id for each in found.rejects] == ["d"]
    images = found.items["image"]
    assert [view.rows[[0, 2]].tolist() for view in images.views] == [[0, 0]] * 3
    assert all(view.rows[3] == -1 for view in images.views)
    seen = np.stack([images[:][0], *(view[:][0] for view in images.views)])
    assert len(np.unique(seen, axis=0)) == 4
    assert mmtfrs.extract(catalog, _config(3), tmp_path / "store", progress=False).encoded == 0
    assert mmtfrs.extract(catalog, _config(0), tmp_path / "store", progress=False).items["image"].views == ()
    other = mmtfrs.extract(catalog, _config(2), tmp_path / "other", progress=False).items["text"].views
    for one, same in zip(found.items["text"].views, other, strict=False):
        np.testing.assert_array_equal(one[:], same[:])


def test_a_step_draws_a_view_and_nothing_else_does(catalog, tmp_path):
    config = _config(3)
    features = mmtfrs.extract(catalog, config, tmp_path / "store", progress=False)
    events = mmtfrs.Events(["u", "u", "v"], ["a", "b", "a"], [1, 2, 3])
    model = mmtfrs.TwoTower(config, catalog, features, events)
    rows = tf.ones([4000], tf.int32)
    drawn, presence = model.device.item_media(rows, drawn=True)
    plain, _ = model.device.item_media(rows)
    adapter = model.data.adapters["image"]
    expected = [adapter.reduce(each[:][:1])[0] for each in (features.items["image"], *features.items["image"].views)]
    np.testing.assert_allclose(plain["image"][0], expected[0], atol=1e-6)
    assert presence.numpy().all() and np.ptp(plain["image"].numpy(), axis=0).max() == 0.0
    nearest = np.argmin([np.abs(drawn["image"].numpy() - each).max(axis=1) for each in expected], axis=0)
    np.testing.assert_allclose(drawn["image"], np.stack(expected)[nearest], atol=1e-6)
    assert np.bincount(nearest, minlength=4).min() > 850  # 1000 +- 27 each
    absent, there = model.device.item_media(tf.zeros([8], tf.int32), drawn=True)
    assert not there.numpy().any() and not absent["image"].numpy().any()
    blocks = [model.trained_blocks(rows[:2], training).numpy() for training in (False, False)]
    np.testing.assert_array_equal(*blocks)
    without = mmtfrs.TwoTower(_config(0), catalog, features, events)
    np.testing.assert_array_equal(without.device.item_media(rows, drawn=True)[0]["image"], plain["image"])
