"""What a modality says of what users take together: by its definition, on planted tastes, on noise, and on logs too short to tell."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FAST

import mmtfrs
from mmtfrs import Config
from mmtfrs.model_inputs.feature_table import MediaRows
from mmtfrs.model_inputs.telling import told


def _log(users=200, items=40, each=8, seed=0):
    """Users who take even or odd items; `[n]` user rows and item rows."""
    rng = np.random.default_rng(seed)
    taken = [2 * rng.choice(items // 2, each, False) + user % 2 + 1 for user in range(users)]
    return np.repeat(np.arange(1, users + 1), each), np.concatenate(taken)


def _media(features) -> MediaRows:
    matrix = np.vstack([np.zeros((1, features.shape[1])), features]).astype(np.float32)
    return MediaRows(matrix, np.arange(len(matrix), dtype=np.int32))


def test_the_share_is_what_its_definition_says():
    users, items = _log()
    features = np.random.default_rng(1).normal(size=(40, 6))
    features[:, 0] += np.where(np.arange(40) % 2, 1.0, -1.0)  # the taste, within noise
    along = total = 0.0
    for user in range(1, 201):
        own = features[items[users == user] - 1]
        for place, one in enumerate(own):
            along += one @ np.delete(own, place, axis=0).mean(axis=0)
            total += one @ one
    found = told(users, items, _media(features), 0)
    # What is subtracted is chance: items in any order, of which a user's other items are a sample without the one looked at.
    center = features.mean(axis=0)
    chance = (40 * 40 * (center @ center) - np.square(features).sum()) / (40 * 39) / np.square(features).sum(axis=1).mean()
    assert found.share == pytest.approx(along / total - chance, abs=3 * found.error)
    assert 0.05 < found.share < 0.5 and found.share > 10 * found.error and not found.nothing


@pytest.mark.parametrize("seed", range(5))
def test_noise_says_nothing(seed):
    media = _media(np.random.default_rng(seed).normal(size=(400, 128)))
    media.rows[5::7] = 0  # items without
    found = told(*_log(items=400, seed=seed), media, seed)
    assert found.nothing and abs(found.share) < 0.01


@pytest.mark.parametrize("users, each", [(200, 1), (10, 2), (0, 1)])
def test_a_short_log_tells_nothing_of_that(users, each):
    rows = _log(users, each=each) if users else (np.zeros(0, int), np.zeros(0, int))
    assert not told(*rows, _media(np.random.default_rng(0).normal(size=(40, 8))), 0).nothing


def test_a_silent_modality_is_left_out_unless_it_is_named(caplog):
    users, items = _log(items=400)
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{n}" for n in range(400)]})
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(400, 8)) + np.where(np.arange(400) % 2, 1.0, -1.0)[:, None]
    features = mmtfrs.Features.from_arrays({"cover": taste, "noise": rng.normal(size=(400, 64))})
    events = mmtfrs.Events([f"u{row}" for row in users], [f"i{row - 1}" for row in items], np.arange(len(users)))
    config = Config(**FAST)
    model = mmtfrs.TwoTower(config, catalog, features, events)
    assert model.data.modalities == ("cover",)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("noise says nothing of what users take together (") and "`model.modalities`" in said
    named = mmtfrs.TwoTower(config.replace(model={"modalities": ("cover", "noise")}), catalog, features, events)
    assert named.data.modalities == ("cover", "noise")
