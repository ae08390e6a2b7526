"""The moving average of the weights, and what an event weighs."""

import numpy as np
import pytest

from mmtfrs._keras import keras, tf
from mmtfrs.models.averaging import AveragedAdam, averaged
from mmtfrs.models.training_dataset import balance


def _model(optimizer) -> keras.Model:
    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    model.compile(optimizer=optimizer, loss="mse")
    return model


@pytest.mark.slow
def test_the_average_follows_every_step_and_soon_forgets_where_it_began():
    model = _model(AveragedAdam(0.1, 0.9))
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.ones((8, 2))
    expected = [value.copy() for value in model.get_weights()]
    for step in range(20):
        model.train_on_batch(x, y)
        momentum = min(0.9, (1 + step) / (10 + step))  # Adam counts the step after the average has followed
        expected = [momentum * a + (1 - momentum) * w for a, w in zip(expected, model.get_weights(), strict=True)]
    raw = model.get_weights()
    with averaged(model):
        for value, wanted in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-5)
            assert not np.allclose(value, 0)
    for value, wanted in zip(model.get_weights(), raw, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert any(not np.allclose(a, b) for a, b in zip(raw, expected, strict=True))


@pytest.mark.parametrize("optimizer", [AveragedAdam(0.1, 0.0), keras.optimizers.SGD(0.1)])
def test_without_an_average_the_weights_stay(optimizer):
    model = _model(optimizer)
    model.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    raw = model.get_weights()
    with averaged(model):
        assert all(np.array_equal(a, b) for a, b in zip(raw, model.get_weights(), strict=True))


def test_averages_are_among_the_variables_that_a_checkpoint_keeps():
    optimizer = AveragedAdam(0.1, 0.5)
    optimizer.build([tf.Variable([1.0, 2.0])])
    assert any(variable is optimizer.averages[0] for variable in optimizer.variables)


def test_balance_by_hand():
    users = np.array([1, 2, 2, 2, 2])
    np.testing.assert_allclose(balance(users, 0.0), np.ones(5))
    np.testing.assert_allclose(balance(users, 0.5), np.array([1, 0.5, 0.5, 0.5, 0.5]) * 5 / 3, rtol=1e-6)
    weights = balance(users, 1.0)
    assert weights[0] == pytest.approx(weights[1:].sum()) and weights.mean() == pytest.approx(1)
