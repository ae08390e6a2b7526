"""Histories in their order: told from a log, packed into rows, read by a transformer, trained as they are served."""

from __future__ import annotations

import numpy as np
import pytest
from asked import texts
from conftest import FAST

import mmtfrs
from mmtfrs import Catalog, Config, Events, TwoTower
from mmtfrs._keras import keras, tf
from mmtfrs.errors import ConfigError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.features.features import Features
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.model_inputs.order import order_told
from mmtfrs.models.packing import pack
from mmtfrs.models.run import load_run
from mmtfrs.towers.history_transformer import LONGEST, HistoryTransformer, Sequences
from mmtfrs.training.fit import fit_to_best, inner_split
from mmtfrs.training.train import train

ITEMS = 60
READS = {"history_encoder": "transformer"}


def walks(users=300, seed=0, ordered=True):
    """Who took one item takes most often its successor on a ring next; times are places. In no order: the same, shuffled."""
    rng = np.random.default_rng(seed)
    ring = rng.permutation(ITEMS)
    rows = []
    for user in range(users):
        place = rng.integers(ITEMS)
        taken = []
        for _ in range(rng.integers(3, 12)):
            place = (place + 1) % ITEMS if rng.random() < 0.8 else rng.integers(ITEMS)
            taken.append(ring[place])
        taken = list(dict.fromkeys(taken))
        taken = taken if ordered else [taken[n] for n in rng.permutation(len(taken))]
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(taken)]
    names, items, times = zip(*rows, strict=True)
    return Catalog.from_dict({"item_id": [f"i{n}" for n in range(ITEMS)]}), Events(names, items, times)


def _features(seed=1):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(ITEMS, 6)).astype(np.float32)
    return Features.from_arrays({"text": text}, {"text": rng.random(ITEMS) > 0.3})


def _taken(events):
    users = np.unique(events.user_ids.astype(str), return_inverse=True)[1] + 1
    items = np.array([int(item[1:]) + 1 for item in events.item_ids])
    return ItemLists.of_log(users, items, events.timestamps, users.max())


def test_a_log_tells_whether_its_order_matters():
    found, shuffled = (order_told(_taken(walks(ordered=ordered)[1]), 0) for ordered in (True, False))
    assert found.matters and found.share > 0.85
    assert not shuffled.matters and abs(shuffled.share - 0.5) < 4 * 0.5 / np.sqrt(shuffled.events)
    few = order_told(_taken(walks(users=12)[1]), 0)
    assert few.share > 0.8 and not few.matters  # too few to say
    nothing = Events(["u", "v"], ["i1", "i2"], [1, 2])
    assert order_told(_taken(nothing), 0) == (0.5, 0)


@pytest.mark.parametrize(("mean", "users", "length"), [(3, 200, 8), (40, 30, 16), (1, 5, 8)])
def test_rows_hold_every_event_once_behind_what_came_before(mean, users, length):
    counts = np.random.default_rng(0).geometric(1 / mean, users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    user = np.repeat(np.arange(users), counts)
    packed = pack(starts, length, 7, 0)
    assert packed.entries.shape[1] == length
    assert sorted(packed.entries[packed.entries >= 0]) == list(range(starts[-1]))
    for entries, places, parts in zip(*packed, strict=True):
        assert ((entries < 0) == (parts == 0)).all() and (np.diff(parts[parts > 0]) >= 0).all()
        for part in range(1, parts.max() + 1):
            mine = entries[parts == part]
            assert (np.diff(mine) == 1).all() and len(set(user[mine])) == 1
            begins = mine[0] == starts[user[mine[0]]]
            assert places[parts == part].tolist() == list(range(not begins, len(mine) + (not begins)))
    again, next_epoch = pack(starts, length, 7, 0), pack(starts, length, 7, 1)
    assert (again.entries == packed.entries).all()
    assert next_epoch.entries.shape != packed.entries.shape or (next_epoch.entries != packed.entries).any() or users < 10


def test_histories_become_tokens_by_hand():
    found = Sequences.of_histories(tf.constant([[0, 5, 0, 7], [0, 0, 0, 0], [1, 2, 3, 4]]))
    assert found.items.numpy().tolist() == [[0, 0, 0, 5, 7], [0] * 5, [0, 1, 2, 3, 4]]
    assert found.places.numpy().tolist() == [[0, 0, 0, 1, 2], [0] * 5, [0, 1, 2, 3, 4]]
    last = found.visible.numpy()[:, -1].astype(int).tolist()
    assert last == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]  # a beginning, and the items
    long = Sequences.of_histories(tf.constant([[*range(1, LONGEST + 4)]]))
    assert long.items.numpy()[0, 1:].tolist() == [*range(4, LONGEST + 4)]
    assert long.places.numpy()[0, -1] == LONGEST


def _layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_layer_beside_numpy():
    rng = np.random.default_rng(0)
    layer, dim = HistoryTransformer(8), 8
    tokens = rng.normal(size=(1, 5, dim)).astype(np.float32)
    places = np.array([[0, 1, 2, 0, 1]])
    parts = np.array([[1, 1, 1, 2, 2]])
    sequences = Sequences.of_parts(tf.constant(places), tf.constant(places), tf.constant(parts))
    layer(tokens, sequences)
    layer.set_weights([value + 0.1 * rng.normal(size=value.shape) for value in layer.get_weights()])
    layer._norms[0].set_weights([np.ones(dim), np.zeros(dim)])
    layer._norms[1].set_weights([np.ones(dim), np.zeros(dim)])
    layer._norms[2].set_weights([np.ones(dim), np.zeros(dim)])
    weights = {weight.name.removeprefix("history_transformer/"): weight.numpy() for weight in layer.weights}

    def dense(name, x):
        return x @ weights[f"{name}/kernel:0"] + weights.get(f"{name}/bias:0", 0.0)

    expected = np.zeros((5, dim))
    for rows in ([0, 1, 2], [3, 4]):  # each history alone
        x = tokens[0, rows] * np.sqrt(dim) + layer.places.numpy()[places[0, rows]]
        y = _layer_norm(x)
        queries, keys, values = np.split(dense("queries_keys_values", y), 3, axis=-1)
        logits = queries @ keys.T / np.sqrt(dim)
        logits[np.triu_indices(len(rows), 1)] = -np.inf
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        x = x + _sigmoid(dense("attention_gate", y)) * dense("attended", shares @ values)
        y = _layer_norm(x)
        active = dense("hidden", y)
        x = x + _sigmoid(dense("hidden_gate", y)) * dense("out", active * _sigmoid(active) * dense("hidden_linear", y))
        expected[rows] = _layer_norm(x)
    np.testing.assert_allclose(layer(tokens, sequences)[0], expected, atol=2e-5)
    assert HistoryTransformer.from_config(layer.get_config()).get_config() == layer.get_config()


def test_what_is_trained_is_what_is_asked():
    """Behind each event of a packed row stands the query of a user with the history until then."""
    catalog, events = walks(users=40)
    model = TwoTower(Config(**FAST).replace(model=READS), catalog, _features(), events)
    compared = 0
    for batch in model.dataset(events, batch_size=64):
        assert batch["item"].shape == batch["before"].shape and batch["weight"].shape == batch["item"].shape
        sequences = Sequences.of_parts(batch["before"], batch["place"], batch["part"])
        blocks = model.sequence_blocks(batch["user"], sequences).numpy().reshape(*batch["item"].shape, model.blocks, -1)
        items, parts = batch["item"].numpy(), batch["part"].numpy()
        assert ((items > 0) == (parts > 0)).all() and (batch["weight"].numpy()[parts == 0] == 0).all()
        for row, part in {*zip(np.nonzero(parts)[0], parts[parts > 0], strict=True)}:
            places = np.flatnonzero(parts[row] == part)
            for count, place in enumerate(places):
                history = np.zeros((1, 16), np.int32)
                history[0, 16 - count :] = items[row, places[:count]]
                asked = model.query_parts(tf.gather(batch["user"][row : row + 1], place, axis=1), tf.constant(history)).blocks
                np.testing.assert_allclose(blocks[row, place], asked[0], atol=2e-6)
                compared += 1
        if compared > 60:
            break
    assert compared > 60
    for size in (64, 33, 5):  # Keras wants as many batches in each epoch
        dataset = model.dataset(events, batch_size=size)
        assert [sum(1 for _ in dataset) for _ in range(3)] == [len(dataset)] * 3


@pytest.mark.long
def test_auto_reads_order_where_it_is_better_and_the_export_answers_like_the_model(tmp_path, capsys):
    catalog, events = walks(users=250)
    split = events.split("user")
    config = Config(**FAST).replace(
        training={"epochs": 8, "patience": 8, "learning_rate": 0.01, "refit": False}, evaluation={"monitor": "recall@5"}
    )
    model, history = train(config, catalog, Features({}), split, tmp_path / "run")
    said = capsys.readouterr().err
    assert "the order is read: val_recall@5" in said
    assert model.reads_order and len(history) == 8
    assert mmtfrs.evaluate(model, split.test, ks=(5,))["model"]["recall@5"] > 0.6  # a bag has 0.3
    assert not (tmp_path / "run" / "bag").exists()
    loaded = load_run(tmp_path / "run")
    users = [f"u{n}" for n in range(30)]
    own = {user: [*split.known.item_ids[split.known.user_ids == user]] for user in users}
    pasts = ItemLists.of(model.data.item_rows(own[user]) for user in users)
    queries = loaded.query_embeddings(users, pasts)
    np.testing.assert_array_equal(queries, model.query_embeddings(users, pasts))
    scores = queries @ loaded.candidate_embeddings().T
    answers = LoadedModel(mmtfrs.export(loaded, tmp_path / "shop"))
    for row, past in enumerate(pasts):
        scores[row, past - 1] = -np.inf
    expected = np.sort(scores, axis=1)[:, ::-1][:, :10]
    width = max(map(len, own.values()))
    histories = np.array([["", *own[user], *[""] * (width - len(own[user]))] for user in users], object)
    nothing = np.full((len(users), 1), "", object)
    # By the user's id, and by the history in the request, which is the sequence.
    for who, history in ((users, nothing), ([""] * len(users), histories)):
        answer = answers.ask("recommend_user", {"user_id": texts(who), "history": history, "exclude": nothing})
        np.testing.assert_allclose(answer["score"][:, :10], expected, atol=1e-5)


@pytest.mark.long
def test_a_shuffled_log_is_a_bag_and_a_better_bag_is_kept(capsys):
    catalog, events = walks(ordered=False)
    assert not TwoTower(Config(**FAST), catalog, Features({}), events).reads_order
    # Order tells what comes next, but what is asked is a random part of the log, and the transformer hardly learns.
    catalog, events = walks()
    split = events.split("random")
    config = Config(**FAST).replace(training={"epochs": 2, "learning_rate": 1e-5})
    model = TwoTower(config, catalog, Features({}), split.train)
    assert model.reads_order
    kept, _ = fit_to_best(model, split, progress=True)
    said = capsys.readouterr().err
    assert ("the order is not read" in said) == (not kept.reads_order) and "with it" in said


def test_epochs_of_a_sequence_model_are_found_on_next_items():
    _, events = walks()
    config = Config(**FAST)
    found = inner_split(events.split("none"), config, reads_order=True)
    newest = dict(zip(events.user_ids, events.timestamps, strict=True))
    assert found.kind == "user" and len(found.validation) == len(newest)
    assert all(newest[user] == time for user, time in zip(found.validation.user_ids, found.validation.timestamps, strict=True))
    assert inner_split(events.split("none"), config).kind != "user"


def test_half_precision_and_a_large_catalog():
    """A step in bfloat16, and one whose table of ids is updated by row, whose negatives are drawn."""
    catalog, events = walks(users=40)
    half = TwoTower(Config(**FAST).replace(model=READS, training={"mixed_precision": True}), catalog, _features(), events)
    half.compile(optimizer=keras.optimizers.Adam(0.01))
    losses = half.fit(half.dataset(events), epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    large = Catalog.from_dict({"item_id": [f"i{n}" for n in range(5000)]})
    drawn = TwoTower(Config(**FAST).replace(model=READS), large, Features({}), events)
    assert drawn.objective.negatives.kind == "mixed"


def test_a_transformer_without_histories_is_refused():
    with pytest.raises(ConfigError, match="needs histories and item ids"):
        Config(model={"history_encoder": "transformer", "history_length": 0})


@pytest.mark.parametrize("encoder", ["bag", "transformer"])
def test_odd_logs_are_trained_on_and_asked(encoder):
    """A user with half of the log and a history of 10 000 events, one who took the same item again and again, an item in every
    log, and no two events apart in time; then histories that nobody has seen."""
    rng = np.random.default_rng(0)
    half = [("half", f"i{item}") for item in rng.integers(0, ITEMS, 10_000)]
    rest = [(f"u{user}", f"i{item}") for user in range(1000) for item in (0, *rng.integers(1, ITEMS, 9))]
    users, items = zip(*half, *rest, *[("again", "i7")] * 40, strict=True)
    events = Events(users, items, np.zeros(len(users)))
    catalog = Catalog.from_dict({"item_id": [f"i{n}" for n in range(ITEMS)]})
    config = Config(**FAST).replace(model={"history_encoder": encoder, "history_length": 200}, data={"repeats": "allow"})
    model = TwoTower(config, catalog, Features({}), events)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    assert np.isfinite(model.fit(model.dataset(events), epochs=1, verbose=0).history["loss"]).all()
    nobody, unknown, repeated = (ItemLists.of([np.array(rows, np.int32)]) for rows in ([], [0, 0], [8] * 300))
    asked = [model.query_embeddings([""], past)[0] for past in (nobody, unknown, repeated)]
    np.testing.assert_allclose(asked[0], asked[1], atol=1e-6)
    assert np.isfinite(asked).all() and np.abs(asked[2] - asked[0]).max() > 1e-3
