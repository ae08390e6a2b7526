"""Every named method once: it trains, and what an export answers is what the model says."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FAST
from test_two_tower import planted

import mmtfrs
from mmtfrs import Config, Events, TwoTower
from mmtfrs._keras import keras, tf
from mmtfrs.config import schema as settings
from mmtfrs.errors import ConfigError, DataError
from mmtfrs.exporting.export import make_index
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.signatures import ServingModule
from mmtfrs.models.histories import Histories

# Each named method stands in at least one row, together with others: a covering array (Cohen et al. 1997), so that a row costs
# one training for five methods. `test_every_method_is_in_a_row` holds it to the names that there are.
ROWS = [
    {"fusion": "concat"},
    {"fusion": "weighted", "score": "dot", "loss": "bpr", "negatives": "in_batch", "missing": "null"},
    {"fusion": "gated", "score": "euclidean", "loss": "hinge", "negatives": "full"},
    {"fusion": "hierarchical", "score": "pearson", "negatives": "mixed", "missing": "generator"},
    {"fusion": "attention", "more": {"loss": {"rating": 0.5}}},
    {"fusion": "coattention"},
    {"fusion": "transformer", "score": "dot", "negatives": "in_batch"},
    {"fusion": "graph", "missing": "null", "negatives": "in_batch"},
    {"fusion": "capsule", "negatives": "mixed", "more": {"loss": {"alignment": 0.1}, "model": {"graph": {"neighbors": 5}}}},
    {"fusion": "late_sum", "score": "euclidean", "more": {"model": {"use_item_id": False}}},
    {"fusion": "late_stacking", "more": {"model": {"use_user_id": False, "history_length": 0}}},
    {"fusion": "late_voting", "loss": "bpr", "missing": "generator"},
]
# Graphs differ in kind by these: they are saved and loaded. Of the others each fusion is, in tests/fusion, and each score is asked.
SAVED = ("hierarchical", "graph", "late_stacking", "late_voting")
_PLACES = {
    "fusion": ("model", settings.FUSIONS),
    "score": ("model", settings.SCORES),
    "missing": ("model", settings.MISSING),
    "loss": ("loss", settings.LOSSES),
    "negatives": ("loss", settings.NEGATIVES),
}


def _settings(row: dict) -> dict:
    made: dict = {"model": {}, "loss": {"uniform": 50}}
    for name, value in row.items():
        if name != "more":
            made[_PLACES[name][0]]["name" if name == "loss" else name] = value
    for section, values in row.get("more", {}).items():
        made[section] |= values
    return made


def test_every_method_is_in_a_row():
    for name, (_, known) in _PLACES.items():
        section = _PLACES[name][0]
        key = "name" if name == "loss" else name
        used = {getattr(getattr(Config(**FAST).replace(**_settings(row)), section), key) for row in ROWS}
        assert used == set(known), name


def _log(events: Events) -> Events:
    """The same log with ratings that items and users plant."""
    ratings = [
        1.0 + (int(item[1:]) % 4) + 0.5 * (int(user[1:]) % 2)
        for user, item in zip(events.user_ids, events.item_ids, strict=True)
    ]
    return Events(events.user_ids, events.item_ids, events.timestamps, ratings=ratings)


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["fusion"])
def test_trains_and_answers_equal_scores(row, tmp_path):
    catalog, features, events = planted()
    events = _log(events)
    config = Config(**FAST).replace(**_settings(row))
    model = TwoTower(config, catalog, features, events)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    history = model.fit(model.dataset(events), epochs=4, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]
    graph = model.train_tf_function.get_concrete_function(iter(model.dataset(events))).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    drawing = {node.op for node in nodes if "Random" in node.op}
    assert drawing and all(name.startswith("Stateless") for name in drawing), drawing  # so that a resumed step is the same

    users = np.array(["u0", "u1", "u77", "stranger"], object)
    histories = Histories(model.data, events)
    queries = model.query_embeddings(users, histories.pasts(users))
    expected = model.score_matrix(tf.constant(queries), tf.constant(model.candidate_embeddings())).numpy()
    taken = [[model.data.item_ids[row - 1].encode() for row in histories.pasts([user])[0]] for user in users]
    width = max(map(len, taken))
    request = {
        "user_id": np.array([user.encode() for user in users], object),
        "history": np.array([[b""] * (width - len(row)) + row for row in taken], object),
        "exclude": np.array([[b""]] * len(users), object),
    }
    if row["fusion"] in SAVED:
        answer = LoadedModel(mmtfrs.export(model, tmp_path / "m", encoders={})).ask("recommend_user", request)
    else:
        module = ServingModule(model, {}, make_index(model))
        found = module.recommend_user(**{name: tf.constant(value, tf.string) for name, value in request.items()})
        answer = {name: value.numpy() for name, value in found.items()}
    for place, user in enumerate(users):
        expected[place, histories.pasts([user])[0] - 1] = tf.float32.min  # left out
    order = np.argsort(-expected, axis=1, kind="stable")
    np.testing.assert_allclose(answer["score"], np.take_along_axis(expected, order, axis=1), atol=1e-5)
    close = np.abs(np.diff(np.take_along_axis(expected, order, axis=1), axis=1)) < 1e-5
    same = answer["item_id"] == np.array([item.encode() for item in model.data.item_ids], object)[order]
    gone = answer["item_id"][:, 1:] == b""
    # Places may be exchanged where scores are equal to the last bits, and nowhere else.
    beside = np.concatenate([close, np.zeros_like(close[:, :1])], axis=1)[:, 1:] | close
    assert (same[:, 1:] | beside | gone).all() and (close[:, :20].mean() < 0.2 or row["fusion"] == "late_voting")
    assert ((answer["item_id"] != b"").sum(axis=1) == [60 - len({*row} - {b""}) for row in taken]).all()
    assert answer["known"].tolist() == [True, True, True, False]


def test_euclidean_is_the_distance():
    catalog, features, events = planted()
    model = TwoTower(Config(**FAST).replace(model={"score": "euclidean"}), catalog, features, events)
    query = model.query_parts(tf.constant([1, 2]), tf.constant([[4], [0]])).blocks
    candidate = model.candidate_parts(tf.constant([3, 5])).blocks
    q, c = query[..., :16].numpy() / 2, candidate[..., :16].numpy()
    np.testing.assert_allclose(np.sum(query * candidate, axis=2), -((q - c) ** 2).sum(axis=2), rtol=1e-4, atol=1e-6)


def test_pearson_is_the_correlation():
    catalog, features, events = planted()
    models = [
        TwoTower(Config(**FAST).replace(model={"score": score}), catalog, features, events) for score in ("dot", "pearson")
    ]
    models[1].set_weights(models[0].get_weights())
    rows, history = tf.constant([1, 2]), tf.constant([[4], [7]])
    sides = [
        [side.numpy() for side in (model.query_parts(rows, history).blocks, model.candidate_parts(rows).blocks)]
        for model in models
    ]
    score = np.sum(sides[1][0] * sides[1][1], axis=2)
    (q, c), expected = sides[0], np.zeros((2, 2))
    for row in range(2):
        expected[row] = [np.corrcoef(q[row, block], c[row, block])[0, 1] for block in range(2)]
    np.testing.assert_allclose(score, expected, atol=1e-5)


def test_votes_by_hand():
    from mmtfrs.models.voting import votes

    queries = tf.constant([[1.0, 1.0]])  # two blocks of one number
    candidates = tf.constant([[0.9, 0.1], [0.5, 0.5], [0.1, 0.8], [0.0, 0.9]])
    # Block 1 ranks 0 1 2 3, block 2 ranks 3 2 1 0; four candidates: 1, 3/4, 1/2, 1/4 votes; all sums are 1.25. The summed scores,
    # 1.0 1.0 0.9 0.9, break ties.
    found = votes(queries, candidates, 2).numpy()[0]
    np.testing.assert_allclose(found, 1.25 + 0.001 * np.tanh(np.array([1.0, 1.0, 0.9, 0.9]) / 4), atol=1e-6)
    ahead = votes(queries, tf.constant([[0.9, 0.8], [0.5, 0.9], [0.1, 0.1]]), 2).numpy()[0]
    np.testing.assert_allclose(ahead, [1 + 2 / 3, 2 / 3 + 1, 2 / 3], atol=2e-3)


@pytest.mark.long
def test_generator_learns_what_another_modality_tells():
    """Image features are a linear map of the text's: guesses must come close where both are known."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(80, 6)).astype(np.float32)
    image = text @ rng.normal(size=(6, 5)).astype(np.float32)
    present = {"text": np.ones(80, bool), "image": np.arange(80) % 4 != 0}
    catalog, _, events = planted(items=80)
    features = mmtfrs.Features.from_arrays({"text": text, "image": image}, present)
    settings = {"missing": "generator", "modality_dropout": 0.0}
    model = TwoTower(Config(**FAST).replace(model=settings), catalog, features, events)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(model.dataset(events), epochs=40, verbose=0)
    media, presence = model.device.item_media(tf.range(1, 81))
    filled, available = model.imputer(media, presence)
    absent = ~present["image"]
    truth = model.data.adapters["image"].reduce(image[absent])
    assert np.mean((filled["image"].numpy()[absent] - truth) ** 2) / np.mean(truth**2) < 0.5
    np.testing.assert_allclose(filled["image"].numpy()[~absent], media["image"].numpy()[~absent])
    assert available.numpy().all()


def test_alignment_by_hand():
    from mmtfrs.towers.alignment import contrast

    first, second = np.eye(3, 2, dtype=np.float32), np.eye(3, 2, dtype=np.float32)[::-1].copy()
    found = contrast(tf.constant(first), tf.constant(second), tf.constant([1.0, 1.0, 0.0]))
    logits = (first @ second.T / 0.1)[:2, :2]
    rows = np.log(np.exp(logits).sum(1)) - logits.diagonal()
    columns = np.log(np.exp(logits).sum(0)) - logits.diagonal()
    np.testing.assert_allclose(found, (rows + columns).mean() / 2, rtol=1e-5)
    assert float(contrast(tf.constant(first), tf.constant(second), tf.zeros(3))) == 0.0


@pytest.mark.slow
def test_rating_is_learned():
    catalog, features, events = planted()
    events = _log(events)
    # Everything shown: what is asked here is whether ratings can be learned, not what is left when media are hidden.
    config = Config(**FAST).replace(loss={"rating": 1.0}, model={"modality_dropout": 0.0})
    model = TwoTower(config, catalog, features, events)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(model.dataset(events), epochs=20, verbose=0)
    metrics = mmtfrs.evaluate(model, events, ks=(5,))["model"]
    spread = events.ratings.std()
    assert metrics["rating_rmse"] < 0.5 * spread
    nobody = Histories(model.data, events.take(np.array([], np.int64)))
    errors = model.predict_ratings(events.user_ids, nobody.pasts(events.user_ids), model.data.item_rows(events.item_ids))
    errors = errors - events.ratings
    np.testing.assert_allclose(metrics["rating_rmse"], np.sqrt(np.mean(errors**2)), rtol=1e-5)
    np.testing.assert_allclose(metrics["rating_mae"], np.mean(np.abs(errors)), rtol=1e-5)
    np.testing.assert_allclose(metrics["rating_rmse_of_mean"], spread, rtol=1e-3)


def test_bad_methods():
    catalog, features, events = planted()
    with pytest.raises(DataError, match="needs events with ratings. Received: a log without any"):
        TwoTower(Config(**FAST).replace(loss={"rating": 1.0}), catalog, features, events)
    with pytest.raises(DataError, match=r"`model.modalities` names `audio`, but no item has any.*Items have: text, image"):
        TwoTower(Config(**FAST).replace(model={"modalities": ["text", "audio"]}), catalog, features, events)
    three, few = mmtfrs.Catalog.from_dict({"item_id": list("abc")}), mmtfrs.Features.from_arrays({"text": np.eye(3)})
    log = Events(["u", "v"], ["a", "b"], [1, 2])
    with pytest.raises(
        ConfigError, match="must be less than the number of different media. Received: 10 neighbors, 3 items with"
    ):
        TwoTower(Config(**FAST).replace(model={"graph": {"neighbors": 10}}), three, few, log)
