"""Settings that are worth nothing alone: every fusion of any number of modalities, with ids and without, trains and exports."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import FAST
from models.test_two_tower import planted

import mmtfrs
from mmtfrs.config.schema import FUSIONS
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.features.features import Features

NAMES = ("text", "image", "audio")


def _trained(fusion, count, ids):
    """A model after one step, on data of which the first `count` modalities are used."""
    catalog, features, events = planted()
    media = {name: rows[:] for name, rows in features.items.items()}
    media["audio"] = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    present = {name: rows.present for name, rows in features.items.items()} | {"audio": np.arange(60) % 3 > 0}
    config = mmtfrs.Config(**FAST).replace(
        model={"fusion": fusion, "modalities": NAMES[:count], "use_item_id": ids, "use_user_id": ids}, export={"k": 5}
    )
    model = mmtfrs.TwoTower(config, catalog, Features.from_arrays(media, present), events)
    model.compile(optimizer="adam")
    loss = model.fit(model.dataset(events).take(1), verbose=0).history["loss"][0]
    assert np.isfinite(loss) and model.data.modalities == tuple(sorted(NAMES[:count], key=model.data.modalities.index))
    return model


@pytest.mark.long
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_of_any_modalities_with_and_without_ids(fusion, tmp_path):
    for count, ids in itertools.product(range(fusion != FUSIONS[0], 4), (True, False)):  # of nothing, all are the same
        model = _trained(fusion, count, ids)
        loaded = LoadedModel(mmtfrs.export(model, tmp_path / f"{count}-{ids}", encoders={}))
        asked = {"user_id": np.array([b"u0"], object), "history": np.array([[b"i1"]], object)}
        answer = loaded.ask("recommend_user", asked | {"exclude": np.array([[b""]], object)})
        assert len(set(answer["item_id"][0])) == 5 and np.isfinite(answer["score"]).all(), (count, ids)


@pytest.mark.parametrize("fusion", ["late_sum", "late_stacking", "late_voting"])
def test_a_late_fusion_of_one_modality_is_that_modality(fusion):
    model = _trained(fusion, 1, True)
    assert model.media_blocks == 1 and model.blocks == 2
    assert model.candidate_embeddings().shape == (60, model.width)
