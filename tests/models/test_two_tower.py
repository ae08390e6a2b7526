"""The model: rows in, embeddings out, plain Keras around it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FAST, run_python

import mmtfrs
from mmtfrs import Catalog, Config, Events, TwoTower
from mmtfrs._keras import keras, tf
from mmtfrs.errors import RunError
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.model_inputs.pooling import Bags
from mmtfrs.models.histories import Histories
from mmtfrs.models.windows import Windows


def planted(seed=0, users=120, items=60, absent=0.2):
    """Two groups of users and items that only the features tell apart."""
    rng = np.random.default_rng(seed)
    group = np.arange(items) % 2
    text = rng.normal(size=(items, 6)).astype(np.float32) * 0.3 + np.where(group, 2.0, -2.0)[:, None]
    image = rng.normal(size=(items, 5)).astype(np.float32)
    present = {"text": rng.random(items) >= absent, "image": rng.random(items) >= absent}
    rows = [(f"u{u}", f"i{i}") for u in range(users) for i in rng.choice(np.flatnonzero(group == u % 2), 8, False)]
    order = rng.permutation(len(rows))
    events = Events([rows[n][0] for n in order], [rows[n][1] for n in order], np.arange(len(rows)))
    catalog = Catalog.from_dict({"item_id": [f"i{n}" for n in range(items)]})
    return catalog, Features.from_arrays({"text": text, "image": image}, present), events


def _model(**model):
    catalog, features, events = planted()
    config = Config(**FAST).replace(model=model)
    return TwoTower(config, catalog, features, events), events


def test_histories_by_hand():
    catalog = Catalog.from_dict({"item_id": list("abcd")})
    events = Events(list("uvuuv"), list("abcad"), [5, 1, 2, 9, 3])
    tables = ModelInputs.build(Config(), catalog, Features({}), events)
    histories = Histories(tables, events)
    # u took c (2), a (5), a (9); v took b (1), d (3).
    assert histories.pasts(["v", "u", "w"]).newest(3).tolist() == [[0, 2, 4], [3, 1, 1], [0, 0, 0]]
    assert histories.lists.items.tolist() == [3, 1, 1, 2, 4] and histories.kept.tolist() == [2, 0, 3, 1, 4]
    entries, seed = tf.range(5, dtype=tf.int64), tf.constant([0, 0], tf.int64)
    before, around = (Windows(histories.lists, 3, everything)(entries, seed) for everything in (False, True))
    assert before["history"].numpy().tolist() == [[0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 0, 0], [2, 0, 0]]
    assert around["history"].numpy().tolist() == [[0, 1, 1], [3, 0, 1], [3, 1, 0], [0, 4, 0], [2, 0, 0]]
    assert before["size"].numpy().tolist() == [0, 1, 2, 0, 1] and around["size"].numpy().tolist() == [2, 2, 2, 1, 1]
    assert histories.pasts(["u"]).newest(2).tolist() == [[1, 1]]


@pytest.mark.parametrize("length", [1, 1000])
def test_what_media_of_a_history_are_together_is_known_before_the_step(length):
    """Sums over users' newest items without the event's own, beside the mean of what each history holds."""
    model, events = _model(history_length=length, modality_dropout=0.0)
    for batch in model.dataset(events, batch_size=50):
        media, there = model.device.pooled(Bags.of(batch["history"]))
        known, known_there = model.device.pooled_but(batch["past"], batch["item"])
        np.testing.assert_array_equal(known_there, there)
        for name, values in media.items():
            np.testing.assert_allclose(known[name], values, atol=1e-5)
    assert np.max(there) == 1 and (np.min(there) == 0) == (length == 1)  # the newest has no other beside it
    assert "past" not in next(iter(_model(history="past")[0].dataset(events)))


def test_of_a_long_history_an_even_draw_is_shown():
    """Users of 500, 200 and 65 items: 64 different ones, never the event's own, each as often as the others."""
    sizes = np.array([500, 200, 65])
    lists = ItemLists.of(np.arange(1, size + 1) for size in sizes)
    entries = np.array([499, 510, 730])
    windows, seen = Windows(lists, 400, True), np.zeros((3, 501))
    for step in range(300):
        shown = windows(tf.constant(entries), tf.constant([7, step], tf.int64))
        assert shown["size"].numpy().tolist() == [399, 199, 64]
        for row, items in enumerate(shown["history"].numpy()):
            items = items[items > 0]
            assert len({*items.tolist()}) == len(items) >= 63
            seen[row, items] += 1
    own = entries - lists.starts[:3] + 1
    assert not seen[np.arange(3), own].any() and not seen[0, :101].any()  # the oldest hundred do not count
    for row, (first, size) in enumerate([(101, 400), (1, 200), (1, 65)]):
        others = np.delete(seen[row, first : first + size], own[row] - first)
        chance = 64 / size
        np.testing.assert_allclose(others.mean(), 300 * chance, rtol=0.01)
        assert np.abs(others - 300 * chance).max() < 5 * np.sqrt(300 * chance * (1 - chance)) + 1
    again = windows(tf.constant(entries), tf.constant([7, 299], tf.int64))
    assert (again["history"].numpy() == shown["history"].numpy()).all()


def test_a_draw_counts_for_all_that_it_stands_for():
    """What ids of a history say, asked with a half of it, is in the mean what the whole of it says."""
    model, _ = _model(modalities=())
    items = np.arange(1, 31, dtype=np.int32)
    whole = model.query_tower._pool_ids(Bags.of(tf.constant(items[None])), False).numpy()[0]
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = rng.permutation(items)[:15][None]
        found.append(model.query_tower._pool_ids(Bags.of(tf.constant(drawn), tf.constant([30.0])), False).numpy()[0])
    np.testing.assert_allclose(np.mean(found, axis=0), whole, atol=5 * np.std(found) / np.sqrt(2000))


@pytest.mark.parametrize(("shown", "whole"), [(30, 30.0), (15, 30.0), (15, 300.0)])
def test_hidden_ids_are_made_up_for_whether_drawn_or_dropped(shown, whole):
    """In the mean over dropout, what is shown of a history counts as the whole of it would: sqrt(0.4 / n) times its sum."""
    model, _ = _model(modalities=(), history_id_dropout=0.6)
    items = np.arange(1, shown + 1, dtype=np.int32)[None].repeat(4000, axis=0)
    found = model.query_tower._pool_ids(Bags.of(tf.constant(items), tf.fill([4000], whole)), True).numpy()
    mean = model.query_tower.history.embeddings.numpy()[1 : shown + 1].mean(axis=0)
    np.testing.assert_allclose(found.mean(axis=0), np.sqrt(0.4 * whole) * mean, atol=5 * found.std() / np.sqrt(4000) + 1e-5)


def test_dataset_rows():
    model, events = _model()
    batches = list(model.dataset(events, shuffle=False, batch_size=100))
    users = np.concatenate([batch["user"] for batch in batches])
    items = np.concatenate([batch["item"] for batch in batches])
    assert len(users) == len(events)
    names = {*zip(model.data.user_ids[users - 1], model.data.item_ids[items - 1], strict=True)}
    assert names == {*zip(events.user_ids, events.item_ids, strict=True)}
    for batch in batches:
        assert not (batch["history"].numpy() == batch["item"].numpy()[:, None]).any()  # never its own answer
    shuffled = model.dataset(events, batch_size=100)
    assert all(batch["user"].shape == (100,) for batch in shuffled)
    first, second = (np.concatenate([batch["item"] for batch in shuffled]) for _ in range(2))
    assert (first != second).any()
    resumed = np.concatenate([batch["item"] for batch in model.dataset(events, batch_size=100, epoch=2)])
    assert (resumed == second).all()  # a run that goes on sees the batches that it would have seen


@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_learns_what_only_features_tell(fusion):
    catalog, features, events = planted()
    config = Config(**FAST).replace(
        model={"fusion": fusion, "use_item_id": False, "use_user_id": False}, training={"epochs": 15}
    )
    split = events.split("user")
    model = TwoTower(config, catalog, features, split.train)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    history = model.fit(model.dataset(split.train), epochs=15, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    metrics = mmtfrs.evaluate(model, split.test, ks=(10,))
    assert metrics["model"]["recall@10"] > 1.5 * metrics["popularity"]["recall@10"]


def test_unknown_user_and_padding_change_nothing():
    model, _ = _model()
    alone, _ = model.query_from_rows(tf.constant([0]), tf.constant([[3, 5]]))
    padded, _ = model.query_from_rows(tf.constant([0]), tf.constant([[0, 3, 0, 5, 0]]))
    np.testing.assert_allclose(alone, padded, atol=1e-6)
    empty, weights = model.query_from_rows(tf.constant([0]), tf.constant([[0]]))
    assert np.isfinite(empty).all() and not weights.numpy().any()


def test_media_of_a_new_item_equal_those_of_the_table():
    model, _ = _model(use_item_id=False)
    _, features, _ = planted()
    rows = np.arange(6)
    media = {name: tf.constant(features.items[name][rows]) for name in ("image", "text")}
    presence = np.stack([features.items[name].present[rows] for name in ("image", "text")], axis=1).astype(np.float32)
    ours, weights = model.candidate_from_media(media, tf.constant(presence))
    table, table_weights = model.candidate_from_rows(tf.constant(rows + 1, tf.int32))
    np.testing.assert_allclose(ours[:, :-1], table[:, :-1], atol=1e-5)
    np.testing.assert_allclose(weights, table_weights, atol=1e-5)
    # The last number is the popularity, which a new item does not have.
    np.testing.assert_array_equal(ours[:, -1], np.zeros(6))
    np.testing.assert_allclose(table[:, -1], model.data.popularity[1:7], atol=1e-6)


def test_own_media_of_users_reach_the_query():
    """A user of the users file who is not in the log at all is told from an unknown one by what they show."""
    catalog, features, events = planted()
    own = Features.from_arrays({"text": np.stack([np.full(6, 2.0), np.full(6, -2.0)])}).items
    features = Features(features.items, users=own, user_ids=np.array(["even", "odd"], object))
    config = Config(**FAST).replace(training={"epochs": 12})
    model = TwoTower(config, catalog, features, events)
    rows = tf.constant(model.data.user_rows(["even", "odd", "stranger"]))
    before = model.query_from_rows(rows, tf.zeros([3, 1], tf.int32))[0].numpy()
    assert np.abs(before[0] - before[1]).max() > 1e-3 and rows.numpy()[2] == 0
    assert set(model.query_tower.project_own) == {"text"}  # no weights for what no user has


def _shown(model, rows):
    _, features, _ = planted()
    media = {name: tf.constant(features.items[name][rows]) for name in ("image", "text")}
    presence = np.stack([features.items[name].present[rows] for name in ("image", "text")], axis=1).astype(np.float32)
    return media, tf.constant(presence)


def test_what_a_request_shows_is_embedded_as_an_item_is():
    """Alone it is what was learned of the item's media and what they are alike, and nothing else; beside a user it is added to
    what the user is asked by."""
    model, _ = _model()
    model.blend.assign([0.5, 0.4, 0.1, 0.3])
    media, presence = _shown(model, np.arange(6))
    item, _ = model.candidate_from_media(media, presence)
    there = presence.numpy().max(axis=1) > 0
    expected = np.zeros((6, 16 + 16 + 16 + 1), np.float32)
    expected[there, :16], expected[there, 32:48] = 0.64 * item.numpy()[there, :16], 0.36 * item.numpy()[there, 32:48]
    nobody, nothing = tf.zeros([6], tf.int32), tf.zeros([6, 3], tf.int32)
    alone, _ = model.query_from_rows(nobody, nothing, media, presence)
    np.testing.assert_allclose(alone[there], expected[there], atol=1e-5)
    np.testing.assert_allclose(model.query_from_media(media, presence)[0][there], expected[there], atol=1e-5)
    for users, history in ((tf.range(1, 7), nothing), (nobody, tf.fill([6, 3], 7))):
        plain, _ = model.query_from_rows(users, history)
        both, _ = model.query_from_rows(users, history, media, presence)
        beside = np.zeros_like(expected)
        beside[there, :16], beside[there, 32:48] = 0.8 * item.numpy()[there, :16], 0.2 * item.numpy()[there, 32:48]
        np.testing.assert_allclose(both, plain + beside, atol=1e-5)
        np.testing.assert_allclose(plain[:, -1], np.full(6, 0.3), atol=1e-6)
    model.blend.assign([0.1, 0.4, 0.5, 0.0])  # where likeness counts more, it does here too
    expected[:, :16] *= (1 / 6) / 0.64
    expected[:, 32:48] *= (5 / 6) / 0.36
    np.testing.assert_allclose(model.query_from_media(media, presence)[0][there], expected[there], atol=1e-5)


def test_an_item_that_nobody_took_has_what_its_media_say_of_it():
    """By NumPy, and learned beside the ids without a gradient to them or to the tower."""
    model, _ = _model()
    rows = tf.range(1, 61)
    for weight in model.id_guess.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    model.fresh.assign(0.5)
    known, new = model.candidate_parts(rows).blocks.numpy(), model.candidate_parts(rows, tf.zeros(60, tf.int32)).blocks.numpy()
    media = [value.numpy() for value in model.device.item_media(rows)[0].values()]
    shown = np.concatenate([known[:, 0], *(x / np.maximum(np.linalg.norm(x, axis=1), 1e-6)[:, None] for x in media)], axis=1)
    wide, wide_bias, out, out_bias = (weight.numpy() for weight in model.id_guess.weights)
    guess = np.maximum(shown @ wide + wide_bias, 0.0) @ out + out_bias
    np.testing.assert_allclose(new[:, 0], known[:, 0], atol=1e-6)
    np.testing.assert_allclose(new[:, 1], 0.5 * guess, rtol=1e-3, atol=1e-3)
    with tf.GradientTape() as tape:
        blocks = model.trained_blocks(rows)
        loss = tf.reduce_sum(tf.square(blocks[:, 2]))
    np.testing.assert_allclose(blocks, np.concatenate([known, guess[:, None]], axis=1), rtol=1e-3, atol=1e-3)
    gradients = tape.gradient(loss, model.trainable_variables)
    found = {
        variable.name
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
        if gradient is not None and np.abs(tf.convert_to_tensor(gradient)).max() > 0
    }
    assert found == {variable.name for variable in model.id_guess.trainable_variables}
    trained = model.trained_blocks(rows, training=True).numpy()
    assert 15 < (trained[:, 2] == trained[:, 1]).all(axis=1).sum() < 45  # half of the items stand there with their ids


def test_what_keras_cannot_save_is_refused(tmp_path):
    model, events = _model()
    model.compile(optimizer="adam")
    with pytest.raises(RunError, match="`save_weights`.*`mmtfrs.export`"):
        model.fit(model.dataset(events), verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(str(tmp_path / "x.keras"))])
    model.fit(
        model.dataset(events),
        verbose=0,
        callbacks=[keras.callbacks.ModelCheckpoint(str(tmp_path / "w.h5"), save_weights_only=True)],
    )
    other, _ = _model()
    other.load_weights(str(tmp_path / "w.h5"))
    np.testing.assert_array_equal(other.candidate_embeddings(), model.candidate_embeddings())


def test_items_without_events_share_the_unknown_row():
    catalog, features, events = planted()
    kept = events.take(np.flatnonzero(events.item_ids != "i7"))
    model = TwoTower(Config(**FAST), catalog, features, kept)
    assert model.device.item_id_rows.numpy()[8] == 0 and model.device.item_id_rows.numpy()[9] == 9


def test_id_dropout_hides_ids_in_training_only():
    model, _ = _model()
    layer = model.query_tower.users
    layer.embeddings.assign(np.arange(layer.rows)[:, None] * np.ones((1, layer.dim)))
    ids = tf.fill([4000], 5)
    shown = layer(ids, training=True).numpy()[:, 0]
    assert set(shown) == {0.0, 5.0} and abs((shown == 0).mean() - layer.id_dropout) < 0.05
    assert (layer(ids, training=False).numpy() == 5).all()


@pytest.mark.parametrize("modalities", [(), ("text",), ("image", "text")])
def test_gradient_reaches_every_weight(modalities):
    model, events = _model(modalities=modalities, dropout=0.0)
    batch = next(iter(model.dataset(events, batch_size=64)))
    with tf.GradientTape() as tape:
        query = model.query_parts(batch["user"], batch["history"], training=True).blocks
        candidate = model.trained_blocks(batch["item"], training=True)
        if modalities:
            query = tf.concat([query, query[:, -1:]], axis=1)
        loss = tf.reduce_sum(tf.square(query - tf.reverse(candidate, [0])) * tf.random.uniform(tf.shape(query)))
        loss += sum(model.losses)
    for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True):
        assert gradient is not None, weight.name
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, weight.name


def test_tables_are_not_weights():
    model, _ = _model()
    assert not [weight.name for weight in model.weights if "features" in weight.name or "rows" in weight.name]


@pytest.mark.slow
def test_same_seed_same_model():
    first, events = _model()
    second, _ = _model()
    for model in (first, second):
        model.compile(optimizer="adam")
        model.fit(model.dataset(events), epochs=1, verbose=0)
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_event_weights_count():
    model, events = _model(dropout=0.0, id_dropout=0.0, history_dropout=0.0)
    light = Events(events.user_ids, events.item_ids, events.timestamps, weights=np.full(len(events), 0.25))
    losses = []
    for each in (events, light):
        batch = next(iter(model.dataset(each, shuffle=False, batch_size=50)))
        losses.append(float(model.compute_loss(batch)))
    np.testing.assert_allclose(losses[1], losses[0] / 4, rtol=1e-5)


def test_mixed_precision_trains():
    catalog, features, events = planted()
    config = Config(**FAST).replace(training={"mixed_precision": True})
    model = TwoTower(config, catalog, features, events)
    model.compile(optimizer="adam")
    history = model.fit(model.dataset(events), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.query_tower.mlp.compute_dtype == "bfloat16" and model.candidate_embeddings().dtype == np.float32


@pytest.mark.parametrize("logits", [1 << 26, 300])
def test_a_whole_step_compiles_with_xla(logits, monkeypatch):
    """Forward and backward, with shapes that are known, all logits at once or some at a time: the loss is that of the step that
    is not compiled."""
    monkeypatch.setattr("mmtfrs.models.objective.LOGITS", logits)
    catalog, features, events = planted()
    config = Config(**FAST).replace(loss={"negatives": "in_batch"}, model={"dropout": 0.0, "modality_dropout": 0.0})
    config = config.replace(model={"id_dropout": 0.0, "history_dropout": 0.0, "history_id_dropout": 0.0})
    model = TwoTower(config, catalog, features, events)
    model.id_guess = None  # what it is shown is drawn
    batch = next(iter(model.dataset(events, batch_size=32)))
    losses = []
    for jit in (False, True):
        model.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=jit)
        losses.append(model.train_on_batch(batch))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_candidates_compile_with_xla():
    model, events = _model()
    batch = next(iter(model.dataset(events, batch_size=32)))
    eager = model.candidate_from_rows(batch["item"])[0]
    compiled = tf.function(lambda rows: model.candidate_from_rows(rows)[0], jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(batch["item"]), eager, atol=1e-5)


def test_one_item_one_user_and_no_media():
    catalog = Catalog.from_dict({"item_id": ["a"]})
    events = Events(["u"], ["a"], [1])
    model = TwoTower(Config(**FAST), catalog, Features({}), events)
    model.compile(optimizer="adam")
    model.fit(model.dataset(events), epochs=1, verbose=0)
    assert model.candidate_embeddings().shape == (1, 17) and np.isfinite(model.candidate_embeddings()).all()


_DISTRIBUTED = """
import sys; sys.path[:0] = ["tests", "tests/models"]
import mmtfrs
import numpy as np
from mmtfrs._keras import keras, tf
devices = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(devices[0], [tf.config.LogicalDeviceConfiguration()] * 4)
from test_two_tower import planted, FAST
from mmtfrs import Config, TwoTower
from mmtfrs.utils.draws import draws_of, uniform
catalog, features, events = planted()
still = {"dropout": 0.0, "id_dropout": 0.0, "history_id_dropout": 0.0, "history_dropout": 0.0, "modality_dropout": 0.0}
config = Config(**FAST).replace(model=still, loss={"negatives": "full"})
steps = []
for replicas in (1, 2, 4):
    reduce = tf.distribute.ReductionToOneDevice()  # collective ops of one process keep the size of their first group
    strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(replicas)], reduce)
    with strategy.scope():
        model = TwoTower(config, catalog, features, events)
        model.id_guess = None  # it draws in training
        model.compile(optimizer=keras.optimizers.SGD(1.0))
    before = [weight.numpy() for weight in model.trainable_variables]
    batch = next(iter(model.dataset(events, shuffle=False, batch_size=128)))
    model.fit(tf.data.Dataset.from_tensors(batch).unbatch().batch(128), epochs=1, verbose=0)
    steps.append([weight.numpy() - start for weight, start in zip(model.trainable_variables, before)])
assert max(np.abs(step).max() for step in steps[0]) > 1e-3
for other in steps[1:]:
    for one, two in zip(steps[0], other):
        np.testing.assert_allclose(two, one, atol=1e-6)
def drawn():
    with draws_of(1, tf.constant(5)):
        return uniform([8])
own = [tuple(each.numpy()) for each in strategy.experimental_local_results(strategy.run(drawn))]
assert len({*own}) == 4 and own == [tuple(each.numpy()) for each in strategy.experimental_local_results(strategy.run(drawn))]
print(strategy.num_replicas_in_sync)
"""


@pytest.mark.long
def test_replicas_take_the_steps_of_one():
    """A step of plain SGD on the same global batch, split over 1, 2 and 4 replicas."""
    result = run_python(_DISTRIBUTED)
    assert result.stdout.strip().endswith("4"), result.stderr[-2000:]


def test_making_a_dataset_leaves_the_model_as_it_is():
    """A fit with and without validation data, and with the datasets made in either order, gives the same weights."""
    catalog, features, events = planted()
    rng = np.random.default_rng(0)
    events = mmtfrs.Events(events.user_ids, events.item_ids, events.timestamps, ratings=rng.uniform(1, 5, len(events)))
    split = events.split("random", 0.3, 0.1)
    weights = []
    for order in ("training", "training, validation", "validation, training"):
        model = TwoTower(Config(**FAST).replace(loss={"rating": 0.5}), catalog, features, split.train)
        model.compile(optimizer="adam")
        made = {name: model.dataset(getattr(split, "train" if name == "training" else name)) for name in order.split(", ")}
        model.fit(made["training"], epochs=2, verbose=0, validation_data=made.get("validation"))
        weights.append(model.get_weights())
    for other in weights[1:]:
        for one, two in zip(weights[0], other, strict=True):
            np.testing.assert_array_equal(one, two)
