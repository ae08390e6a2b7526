"""Likeness without learning: cosines by hand, and when it stands in for what towers learned."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
from conftest import FAST
from models.test_two_tower import planted

import mmtfrs
from mmtfrs import Config, TwoTower
from mmtfrs._keras import tf
from mmtfrs.evaluation.blend import settle_media
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.towers.likeness import Likeness


def _cosines(first: dict, second: dict) -> np.ndarray:
    """Sum over the modalities of the cosine between rows, 0 where one has none."""

    def unit(rows):
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    return sum(unit(first[name]) @ unit(second[name]).T for name in first)


def test_inner_products_add_up_cosines():
    catalog, features, events = planted()
    model = TwoTower(Config(**FAST), catalog, features, events)
    media, presence = model.device.item_media(tf.range(1, 61))
    arrays = {name: value.numpy() for name, value in media.items()}
    vectors = Likeness.of(model.data, 16)(media, presence).numpy()  # more numbers than there are components: nothing is lost
    np.testing.assert_allclose(vectors @ vectors.T, _cosines(arrays, arrays), atol=1e-5)
    text = np.array([[float(name == "text") for name in arrays]] * 60, np.float32)
    alone = Likeness.of(model.data, 16)(media, tf.constant(text)).numpy()
    np.testing.assert_allclose(alone @ alone.T, _cosines({"text": arrays["text"]}, {"text": arrays["text"]}), atol=1e-5)
    assert not Likeness.of(model.data, 16)(media, tf.zeros([60, 2])).numpy().any()
    # Fewer numbers than components: no other two-column projection of the items comes nearer (Eckart and Young).
    joined = np.concatenate(
        [value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12) for value in arrays.values()], axis=1
    )
    left = np.linalg.svd(joined, compute_uv=False)[2:]
    short = Likeness.of(model.data, 2)(media, presence).numpy()
    assert np.linalg.norm(joined @ joined.T - short @ short.T) == pytest.approx(np.linalg.norm(left**2), rel=1e-3)


def test_a_text_finds_images_where_both_lie_in_one_space():
    """Images and texts say the same of an item, each around a center of its own; no item has both, no log tells of it."""
    rng = np.random.default_rng(0)
    meant = rng.normal(size=(80, 24)).astype(np.float32)
    image, text = meant + 0.2 * rng.normal(size=meant.shape) + 3.0, 5.0 * meant + rng.normal(size=meant.shape) - 4.0
    here = np.arange(80) < 40
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{n}" for n in range(80)]})
    events = mmtfrs.Events([f"u{n % 9}" for n in range(80)], [f"i{n}" for n in rng.permutation(80)], np.arange(80))

    def found(space):
        features = mmtfrs.Features.from_arrays({"image": image, "text": text}, {"image": here, "text": ~here})
        encoders = {name: types.SimpleNamespace(space=space, name=name) for name in ("image", "text")}
        features = dataclasses.replace(features, encoders=encoders)
        config = Config(**FAST).replace(model={"embedding_dim": 24, "modalities": ["image", "text"]})
        model = TwoTower(config, catalog, features, events)
        model.blend.assign([0.0, 0.0, 1.0, 0.0])
        media = {"image": tf.zeros([40, 24]), "text": tf.constant(text[here], tf.float32)}
        asked, _ = model.query_from_media(media, tf.constant([[0.0, 1.0]] * 40))
        return np.mean((asked.numpy() @ model.candidate_embeddings().T)[:, :40].argmax(axis=1) == np.arange(40)), model

    share, model = found("a space")
    assert share > 0.9 and found("")[0] < 0.3
    one, other = (model.data.adapters[name] for name in ("image", "text"))
    np.testing.assert_array_equal(one.projection, other.projection)
    np.testing.assert_allclose(one.mean, image[here].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(other.mean, text[~here].mean(axis=0), rtol=1e-5)


def _log(users, each, seed):
    """Users who take items of one of 4 kinds; media show the kind, and each item also has tastes that only ids could learn."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(200) % 4
    media = np.eye(4)[kinds] + 0.3 * rng.normal(size=(200, 4))
    rows = [
        (f"u{user}", f"i{item}") for user in range(users) for item in rng.choice(np.flatnonzero(kinds == user % 4), each, False)
    ]
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{n}" for n in range(200)]})
    features = mmtfrs.Features.from_arrays({"look": np.concatenate([media, rng.normal(size=(200, 12))], axis=1)})
    return catalog, features, mmtfrs.Events(*zip(*rows, strict=True), np.arange(len(rows)))


def test_a_log_too_short_to_learn_from_is_answered_by_likeness(tmp_path):
    catalog, features, events = _log(120, 2, 0)
    split = events.split("random", 0.3, 0.3)
    model = TwoTower(Config(**FAST), catalog, features, split.train)  # as if it had been trained to no avail
    task = RankingTask(model.data, split.validation)
    settle_media(model, task, "recall@20")
    learned, ids, alike, popular = model.blend.numpy()
    assert (learned, ids, alike) == (0.0, 0.0, 1.0) and popular > 0.0
    users, pasts = task.users[:5], task.pasts.take(np.arange(5))
    scores = model.query_embeddings(users, pasts) @ model.candidate_embeddings().T
    media, _ = model.device.item_media(tf.range(1, 201))
    arrays = {name: value.numpy() for name, value in media.items()}
    pooled = {
        name: np.stack([value[past - 1].mean(axis=0) if len(past) else np.zeros(16) for past in pasts])
        for name, value in arrays.items()
    }
    expected = _cosines(pooled, arrays) + popular * model.data.popularity[1:]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    # It travels: saved, loaded and exported it is the same.
    mmtfrs.save_run(model, tmp_path / "run")
    again = mmtfrs.load_run(tmp_path / "run")
    np.testing.assert_array_equal(again.candidate_embeddings(), model.candidate_embeddings())


@pytest.mark.slow
def test_towers_that_learned_are_kept():
    catalog, features, events = _log(600, 8, 0)
    split = events.split("random", 0.2, 0.2)
    model = TwoTower(Config(**FAST), catalog, features, split.train)
    model.compile(optimizer="adam")
    model.fit(model.dataset(split.train), epochs=15, verbose=0)
    settle_media(model, RankingTask(model.data, split.validation), "recall@20")
    assert model.blend.numpy()[0] > 0.0
