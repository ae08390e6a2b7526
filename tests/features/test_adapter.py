"""Principal components against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs import Catalog, Config, Events
from mmtfrs.errors import DataError
from mmtfrs.features.features import FeatureRows, Features
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.pca import Adapter
from mmtfrs.model_inputs.storage import load_inputs, save_inputs


@pytest.mark.parametrize("shape", [(200, 30), (20, 50)])
def test_components(shape):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 5).astype(np.float32)
    adapter = Adapter.fit(FeatureRows(values, np.arange(len(values))), 8, seed=0)
    reduced = adapter.reduce(values)
    assert reduced.shape == (len(values), 8) and abs((reduced**2).mean() - 1) < 1e-4
    centered = values - values.mean(axis=0)
    _, singular, _ = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    variances = np.sort((reduced.astype(np.float64) ** 2).sum(axis=0))[::-1]
    np.testing.assert_allclose(variances / variances.sum(), singular[:8] ** 2 / (singular[:8] ** 2).sum(), rtol=1e-3)
    covariance = reduced.T @ reduced
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-2 * np.diag(covariance).max()


def test_all_components_keep_all_distances():
    values = np.random.default_rng(0).normal(size=(30, 10)).astype(np.float32)
    for dim in (None, 10, 99):
        reduced = Adapter.fit(FeatureRows(values, np.arange(30)), dim, seed=0).reduce(values)
        before, after = (np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (values, reduced))
        np.testing.assert_allclose(after / after.max(), before / before.max(), atol=1e-5)


def test_one_medium_is_enough():
    adapter = Adapter.fit(FeatureRows(np.ones((1, 5), np.float32), np.array([0, -1])), 3, seed=0)
    assert not np.isnan(adapter.reduce(np.ones((1, 5)))).any()


def test_tables_by_hand(tmp_path):
    catalog = Catalog.from_dict({"item_id": ["a", "b", "c"]})
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    features = Features.from_arrays({"text": values}, {"text": [True, False, True]})
    events = Events(["u", "u", "v"], ["a", "b", "a"], [1, 2, 3])
    tables = ModelInputs.build(Config(model={"feature_dim": None}), catalog, features, events)
    assert tables.item_counts.tolist() == [0, 2, 1, 0] and tables.user_counts.tolist() == [0, 2, 1]
    assert tables.item_rows(["c", "zz", "a"]).tolist() == [3, 0, 1] and tables.user_rows(["w", "v"]).tolist() == [0, 2]
    media = tables.items["text"]
    assert media.rows.tolist() == [0, 1, 0, 2] and not media.matrix[0].any()
    np.testing.assert_allclose(media.matrix[1], -media.matrix[2], atol=1e-6)  # two rows around their mean
    save_inputs(tables, tmp_path)
    loaded = load_inputs(tmp_path)
    assert loaded.item_ids.tolist() == ["a", "b", "c"] and loaded.modalities == ("text",)
    np.testing.assert_array_equal(loaded.items["text"].matrix, media.matrix)


def test_table_errors():
    catalog = Catalog.from_dict({"item_id": ["a", "b", "c"]})
    features = Features.from_arrays({"text": np.ones((2, 4))})
    with pytest.raises(DataError, match="`features` has 2 rows of text, the catalog 3 items"):
        ModelInputs.build(Config(), catalog, features, Events(["u"], ["a"], [1]))
    with pytest.raises(DataError, match="no training event is on an item of the catalog"):
        ModelInputs.build(Config(), catalog, Features({}), Events(["u"], ["zz"], [1]))


def test_inputs_are_never_written_to():
    """Neither what another log makes of them nor what is taken out of them changes them."""
    catalog = Catalog.from_dict({"item_id": ["a", "b", "c"]})
    features = Features.from_arrays({"text": np.eye(3, 4, dtype=np.float32)})
    inputs = ModelInputs.build(Config(), catalog, features, Events(["u", "v"], ["a", "b"], [1, 2]))
    for name in ("item_ids", "item_counts", "user_counts", "id_rows", "faded", "titles"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(inputs, name)[0] = 1
    other = inputs.on(Events(["w", "w"], ["c", "a"], [3, 4]))
    assert other.item_counts.tolist() == [0, 1, 0, 1] and other.user_ids.tolist() == ["u", "v", "w"]
    assert inputs.item_counts.tolist() == [0, 1, 1, 0] and inputs.user_ids.tolist() == ["u", "v"]
