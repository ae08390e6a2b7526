"""The layers beside the fusions: what each gives, by hand or by NumPy; graph, XLA, configuration, gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmtfrs._keras import keras, tf
from mmtfrs.config.config import Config
from mmtfrs.model_inputs.pooling import Bags
from mmtfrs.models.rating import RatingHead
from mmtfrs.towers.candidate import CandidateTower
from mmtfrs.towers.imputers import GeneratorImputer
from mmtfrs.towers.layers import MLP, Dropout, IdEmbedding

NAMES, DIMS = ("image", "text", "audio"), (4, 3, 2)
PRESENCE = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], np.float32)


def _media(rows=4, seed=0, presence=PRESENCE):
    rng = np.random.default_rng(seed)
    return {
        name: tf.constant((rng.normal(size=(rows, dim)) * presence[:, index, None]).astype(np.float32))
        for index, (name, dim) in enumerate(zip(NAMES, DIMS, strict=True))
    }


@pytest.fixture
def imputer():
    keras.utils.set_random_seed(0)
    made = GeneratorImputer(NAMES, DIMS)
    made(_media(), PRESENCE)
    return made


def test_imputers_leave_what_is_there_and_guess_only_from_what_is(imputer):
    media = _media()
    filled, available = imputer(media, PRESENCE)
    assert available.numpy().tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]]
    for index, name in enumerate(NAMES):
        there = PRESENCE[:, index] > 0
        np.testing.assert_array_equal(filled[name][there], media[name][there])
        guessed = (PRESENCE[:, index] == 0) & (PRESENCE.sum(axis=1) > 0)
        assert (np.abs(filled[name].numpy()[guessed]) > 0).any(axis=1).all()
        assert not filled[name].numpy()[3].any()  # of nothing nothing can be guessed


def test_imputers_in_a_graph_under_xla_and_from_their_configuration(imputer):
    media = _media()
    expected, _ = imputer(media, PRESENCE)
    again = type(imputer).from_config(json.loads(json.dumps(imputer.get_config())))
    again(media, PRESENCE)
    again.set_weights(imputer.get_weights())
    runs = [again, tf.function(imputer.__call__), tf.function(imputer.__call__, jit_compile=True)]
    for run in runs:
        filled, _ = run(media, tf.constant(PRESENCE))
        for name in NAMES:
            np.testing.assert_allclose(filled[name], expected[name], atol=1e-5)


def _planted(rows=400):
    """Text and sound are linear in the image."""
    rng = np.random.default_rng(3)
    image = rng.normal(size=(rows, 4)).astype(np.float32)
    maps = [rng.normal(size=(4, dim)).astype(np.float32) for dim in DIMS[1:]]
    return {"image": image, "text": image @ maps[0], "audio": image @ maps[1]}


@pytest.mark.slow
def test_the_generator_learns_and_its_discriminator_pulls_the_other_way():
    keras.utils.set_random_seed(0)
    media = {name: tf.constant(value) for name, value in _planted().items()}
    imputer = GeneratorImputer(NAMES, DIMS, hidden=32)
    presence = tf.ones([400, 3])
    imputer(media, presence)
    optimizer = keras.optimizers.Adam(0.01)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            imputer(media, presence, training=True)
            loss = tf.add_n(imputer.losses)
        gradients = tape.gradient(loss, imputer.trainable_weights)
        optimizer.apply_gradients(zip(gradients, imputer.trainable_weights, strict=True))
        return gradients

    first = step()
    assert len(first) == 2 * 3 * 4 and all(np.abs(gradient).max() > 0 for gradient in first)
    for _ in range(200):
        step()
    shown = np.tile(np.array([[1, 1, 0]], np.float32), (400, 1))
    filled, _ = imputer({name: value * shown[:, i, None] for i, (name, value) in enumerate(media.items())}, shown)
    assert np.square(filled["audio"] - media["audio"]).mean() < 0.3 * np.square(media["audio"]).mean()
    # A guess that the discriminator finds out is bad for the generator and good for the discriminator: the sign changes between them.
    guess = tf.Variable(tf.random.stateless_normal([5, 2], (1, 2)))
    ones = tf.ones([5])
    with tf.GradientTape(persistent=True) as tape:
        fooled = tf.reduce_sum(tf.nn.softplus(imputer.discriminators[2](guess)))
        term = imputer.loss_of(2, tf.stop_gradient(guess), guess, ones)
    np.testing.assert_allclose(tape.gradient(term, guess), -0.1 / 5 * tape.gradient(fooled, guess), atol=1e-6)


def test_media_and_ids_of_an_item_never_touch():
    """The last block is the id's embedding and nothing else, zeros where the id is unknown; the media's do not know the id."""
    config = Config(model={"embedding_dim": 8, "hidden": [8]})
    keras.utils.set_random_seed(0)
    media = _media()
    tower = CandidateTower(config, NAMES, 5, name="tower")
    blocks, weights = (each.numpy() for each in tower(media, PRESENCE, tf.constant([1, 2, 0, 4])))
    table = tower.ids.embeddings.numpy()
    np.testing.assert_array_equal(blocks[:, 1], [table[1], table[2], np.zeros(8), table[4]])
    others, _ = tower(media, PRESENCE, tf.constant([3, 3, 3, 3]))
    np.testing.assert_array_equal(blocks[:, 0], others[:, 0])
    none, _ = tower(media, PRESENCE)
    np.testing.assert_array_equal(none, np.stack([blocks[:, 0], np.zeros((4, 8))], axis=1))
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 1, 0], atol=1e-6)
    late = CandidateTower(config.replace(model={"fusion": "late_sum"}), NAMES, 5)
    assert late(media, PRESENCE)[0].shape == (4, 4, 8)
    assert CandidateTower(config.replace(model={"use_item_id": False}), NAMES, 5)(media, PRESENCE)[0].shape == (4, 1, 8)


def test_rating_head_starts_at_the_mean_and_counts_in_deviations():
    head = RatingHead()
    rng = np.random.default_rng(0)
    query, candidate = (tf.constant(rng.normal(size=(6, 8)).astype(np.float32)) for _ in range(2))
    head(query, candidate)
    head.set_scale(3.5, 2.0)
    head.out.kernel.assign(tf.zeros_like(head.out.kernel))
    np.testing.assert_allclose(head(query, candidate), np.full(6, 3.5))
    np.testing.assert_allclose(
        head.loss(query, candidate, tf.constant([3.5, 5.5, 1.5, 7.5, 3.5, 3.5])), [0, 1, 1, 4, 0, 0], atol=1e-6
    )
    compiled = tf.function(head.__call__, jit_compile=True)(query, candidate)
    np.testing.assert_allclose(compiled, head(query, candidate), atol=1e-5)


@pytest.mark.parametrize(
    "make, inputs",
    [
        (lambda: MLP((8,), 4, 0.2), np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)),
        (lambda: IdEmbedding(7, 4, 0.5), np.array([0, 3, 6], np.int32)),
        (lambda: IdEmbedding(7, 4, sparse=False), np.array([0, 0, 1], np.int32)),
        (lambda: Dropout(0.5), np.ones((2, 3), np.float32)),
    ],
)
def test_parts_in_a_graph_and_from_their_configuration(make, inputs):
    layer = make()
    expected = layer(inputs)
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    again(inputs)
    again.set_weights(layer.get_weights())
    for run in (again, tf.function(layer.__call__), tf.function(layer.__call__, jit_compile=True)):
        np.testing.assert_allclose(run(tf.constant(inputs)), expected, atol=1e-5)


def test_bags_of_ids_are_sums_without_padding():
    layer = IdEmbedding(5, 2)
    layer(np.array([0], np.int32))
    layer.embeddings.assign(np.arange(10, dtype=np.float32).reshape(5, 2))
    bags = Bags.of(tf.constant([[0, 1, 4], [2, 2, 0]]))
    assert layer(bags).numpy().tolist() == [[10, 12], [8, 10]]
    assert layer(Bags(bags.items * [1, 0, 1, 1], *bags[1:])).numpy().tolist() == [[2, 3], [8, 10]]  # one whose id is unknown


def test_dropout_of_random_bytes():
    layer, x = Dropout(0.3), tf.ones([301, 77])
    assert (layer(x).numpy() == 1).all() and (Dropout(0.0)(x, training=True).numpy() == 1).all()
    with tf.GradientTape() as tape:
        tape.watch(x)
        shown = layer(x, training=True)
    kept = shown.numpy() > 0
    rate = 77 / 256  # of bytes below 77, the nearest to 0.3
    assert np.allclose(shown.numpy()[kept], 1 / (1 - rate)) and shown.shape == (301, 77)
    assert abs((~kept).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
    assert np.abs(np.corrcoef(kept[:, :-1].ravel(), kept[:, 1:].ravel())[0, 1]) < 0.03
    np.testing.assert_array_equal(tape.gradient(shown, x), shown)
    assert (layer(x, training=True).numpy() != shown.numpy()).any()
    compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)(x).numpy()
    assert abs((compiled == 0).mean() - rate) < 0.02
    half = Dropout(0.5, dtype="mixed_bfloat16")(x, training=True)
    assert half.dtype == tf.bfloat16 and {*np.unique(half.numpy().astype(np.float32))} == {0.0, 2.0}
