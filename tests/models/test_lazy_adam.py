"""Adam by rows, held against Adam over whole tables."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mmtfrs._keras import keras, tf
from mmtfrs.models.averaging import AveragedAdam, averaged
from mmtfrs.models.lazy_adam import ROWS, LazyAdam
from mmtfrs.utils.static_shapes import compiled

SIZE, DIM = ROWS + 1, 3


def _trained(optimizer, touched, targets, sparse, xla=False):
    """A table pulled towards targets, of which each step touches some rows; and the average."""
    table = tf.Variable(np.random.default_rng(1).normal(size=(SIZE, DIM)).astype(np.float32))
    optimizer.build([table])

    @tf.function(autograph=False, jit_compile=xla)
    def step(rows):
        with compiled(xla):
            _step(rows)

    def _step(rows):
        with tf.GradientTape() as tape:
            found = tf.gather(table, rows)
            loss = tf.reduce_sum(tf.square(found - tf.gather(targets, rows))) + tf.reduce_sum(tf.abs(found))
        gradient = tape.gradient(loss, table)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply_gradients([(gradient if sparse else tf.convert_to_tensor(gradient), table)])

    for rows in touched:
        step(tf.constant(rows, tf.int32))
    graph = step.get_concrete_function(tf.constant(touched[0], tf.int32)).graph
    assert ("Unique" in {operation.type for operation in graph.get_operations()}) == (sparse and not xla)
    if sparse:
        optimizer.catch_up([table])
    return table.numpy(), optimizer.averages[0].numpy() if optimizer.averages else None


def _both(touched, momentum):
    targets = tf.constant(np.random.default_rng(2).normal(size=(SIZE, DIM)), tf.float32)
    lazy = _trained(LazyAdam(0.01, momentum), touched, targets, True)
    whole = _trained(AveragedAdam(0.01, momentum), touched, targets, False)
    return lazy, whole


@pytest.mark.parametrize("momentum", [0.99, 0.5, 0.0])
def test_a_table_whose_rows_are_all_touched_is_adams(momentum):
    rows = np.tile(np.arange(SIZE), 2)  # some twice, whose gradients are added up
    (table, average), (expected, expected_average) = _both([rows] * 30, momentum)
    np.testing.assert_allclose(table, expected, atol=1e-5)
    if momentum:
        np.testing.assert_allclose(average, expected_average, atol=1e-5)
    else:
        assert average is None


def test_rows_that_come_twice_are_added_up_where_xla_compiles():
    """With shapes that are known, and without the loop over all rows that XLA makes of `unique`: the same."""
    rng = np.random.default_rng(0)
    touched = [rng.integers(0, 40, 300) for _ in range(20)]
    targets = tf.constant(rng.normal(size=(SIZE, DIM)), tf.float32)
    usual, compiled_too = (_trained(LazyAdam(0.01, 0.9), touched, targets, True, xla) for xla in (False, True))
    for one, other in zip(usual, compiled_too, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_rows_that_wait_end_where_adam_has_them():
    """To a few hundredths of the way that they went, in the mean, as is their average; row 0 is touched once and row 1 never."""
    rng = np.random.default_rng(0)
    touched = [rng.integers(2, SIZE, 400) for _ in range(150)]
    touched[3][0] = 0
    (table, average), (expected, expected_average) = _both(touched, 0.99)
    start = np.random.default_rng(1).normal(size=(SIZE, DIM))
    way = np.abs(expected - start).mean()
    assert way > 0.05
    assert np.abs(table - expected).mean() < 0.03 * way
    assert np.abs(average - expected_average).mean() < 0.05 * np.abs(expected_average - start).mean()
    np.testing.assert_array_equal(table[1], np.float32(start[1]))
    np.testing.assert_allclose(average[1], start[1], rtol=1e-5)
    np.testing.assert_allclose(table[0], expected[0], atol=4e-3)


def test_weights_are_read_as_they_stand_by_now():
    """`averaged`, which every epoch ends with, and the end of `fit` bring all rows up; a second time nothing moves."""
    model = keras.Sequential([keras.layers.Embedding(SIZE, 2, input_length=1), keras.layers.Flatten()])
    model.compile(optimizer=LazyAdam(0.1, 0.9), loss="mse")
    for rows in (np.arange(8), np.arange(8, 16)):
        model.train_on_batch(rows[:, None], np.ones((8, 2)))
    raw = model.get_weights()[0]
    with averaged(model):
        shown = model.get_weights()[0]
    moved = model.get_weights()[0] != raw
    assert moved[:8].all() and not moved[8:].any()  # what was left of their momentum
    with averaged(model):
        np.testing.assert_array_equal(model.get_weights()[0], shown)
    fitted = keras.Sequential([keras.layers.Embedding(SIZE, 2, input_length=1), keras.layers.Flatten()])
    fitted.compile(optimizer=LazyAdam(0.1, 0.9), loss="mse")
    fitted.fit(np.arange(16)[:, None], np.ones((16, 2)), batch_size=8, shuffle=False, verbose=0)
    before = fitted.get_weights()[0]
    fitted.optimizer.catch_up(fitted.trainable_variables)
    np.testing.assert_array_equal(fitted.get_weights()[0], before)


def test_small_tables_and_plain_gradients_are_adams():
    for size, sparse in ((ROWS, True), (SIZE, False)):
        found = []
        for optimizer in (LazyAdam(0.1, 0.9), AveragedAdam(0.1, 0.9)):
            table = tf.Variable(tf.ones([size, 2]))
            gradient = tf.IndexedSlices(tf.ones([3, 2]), tf.constant([0, 1, 1]), tf.constant([size, 2]))
            for _ in range(4):
                optimizer.apply_gradients([(gradient if sparse else tf.convert_to_tensor(gradient), table)])
            found.append((table.numpy(), optimizer.averages[0].numpy()))
        np.testing.assert_array_equal(found[0], found[1])


def test_no_update_is_compiled_apart_from_its_step(monkeypatch):
    """Keras does so where there is a GPU, and XLA would compile anew for each number of rows that a step touches."""
    used = sys.modules[keras.optimizers.Optimizer.__module__].tf.config
    monkeypatch.setattr(used, "list_physical_devices", lambda *_: ["a GPU"])
    assert keras.optimizers.Adam().jit_compile
    assert not LazyAdam().jit_compile and not LazyAdam.from_config(LazyAdam(0.1).get_config()).jit_compile


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_optimizer_is_made_again_from_its_config(momentum):
    again = LazyAdam.from_config(LazyAdam(0.1, momentum).get_config())
    assert (again.use_ema, again.ema_momentum if momentum else 0.0) == (momentum > 0, momentum)
    assert float(again.learning_rate) == pytest.approx(0.1)
