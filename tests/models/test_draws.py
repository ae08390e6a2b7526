"""Random numbers of a step: the same for the same step however it is run, and others for any other."""

from __future__ import annotations

import ast
import itertools
import re

import numpy as np
import pytest
from conftest import ROOT

from mmtfrs._keras import tf
from mmtfrs.utils.draws import draws_of, uniform

_STATEFUL = r"tf\.random\.(?!stateless_)|np\.random\.(?!default_rng|Generator)|keras\.layers\..*(Dropout|Noise|Random)"


def _drawn(seed, step):
    with draws_of(seed, step):
        return tf.stack([uniform([1000]), uniform([1000])])


def test_a_step_draws_the_same_however_it_is_run():
    step = tf.Variable(7, dtype=tf.int64)
    expected = _drawn(3, step).numpy()
    plain, compiled = (tf.function(lambda: _drawn(3, step), jit_compile=jit) for jit in (False, True))
    for _ in range(2):  # nothing has a state
        np.testing.assert_array_equal(plain(), expected)
    of_xla = compiled().numpy()  # numbers of its own
    np.testing.assert_array_equal(compiled(), of_xla)
    assert len(np.unique(of_xla)) > 1900
    step.assign(8)
    assert not np.isin(compiled(), of_xla).all(axis=1).any() and not np.array_equal(plain(), expected)
    looped = tf.function(lambda: tf.map_fn(lambda each: _drawn(3, each), tf.constant([6, 7]), tf.float32))()
    np.testing.assert_array_equal(looped[1], expected)


def test_seeds_steps_and_draws_are_independent():
    draws = np.concatenate([_drawn(seed, step) for seed, step in itertools.product((0, 1, 42), (0, 1, 1000))])
    assert np.abs(draws.mean(axis=1) - 0.5).max() < 0.05
    likeness = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(likeness).max() < 0.15  # five standard deviations of 1000 numbers


def test_out_of_a_step_the_seed_of_the_process_counts():
    found = []
    for _ in range(2):
        tf.random.set_seed(5)
        found.append([uniform([4], 0, 100, tf.int32).numpy().tolist() for _ in range(2)])
    assert found[0] == found[1] and found[0][0] != found[0][1]


def _stateful(tree):
    """What draws from a state: of TensorFlow, Keras, NumPy or Python."""
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.match(_STATEFUL, name):
            yield name
        elif isinstance(node, ast.Import) and any(each.name == "random" for each in node.names):
            yield "random"


@pytest.mark.parametrize("room", ["model_inputs", "fusion", "towers", "models", "evaluation", "training", "index"])
def test_nothing_else_draws_from_a_state(room):
    found = {path.name: [*_stateful(ast.parse(path.read_text()))] for path in (ROOT / "mmtfrs" / room).glob("*.py")}
    assert found and not any(found.values()), found
    planted = "x = tf.random.uniform([2])\ny = keras.layers.Dropout(0.1)\nz = np.random.rand(2)\nimport random"
    assert len([*_stateful(ast.parse(planted))]) == 4
