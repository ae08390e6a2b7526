"""One harness for every fusion: contract, configuration, graph, precision, gradients, reload."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmtfrs import fusion
from mmtfrs._keras import keras, tf
from mmtfrs.errors import ConfigError

NAMES = ("image", "text", "audio")
PRESENCE = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], np.float32)


def _vectors(seed=0):
    rng = np.random.default_rng(seed)
    return {name: tf.constant(rng.normal(size=(4, 8)).astype(np.float32)) for name in NAMES}


@pytest.fixture(params=sorted(fusion.FUSIONS))
def layer(request):
    keras.utils.set_random_seed(0)
    made = fusion.get(request.param)(NAMES, 8)
    made(_vectors(), PRESENCE)
    made.null.assign(np.random.default_rng(9).normal(size=(3, 8)))
    return made


def test_contract(layer):
    fused, weights = layer(_vectors(), PRESENCE)
    assert (
        fused.shape == ((4, 8) if layer.blocks == 1 else (4, layer.blocks, 8))
        and weights.shape == (4, 3)
        and weights.dtype == tf.float32
    )
    assert not (weights.numpy() * (1 - PRESENCE)).any()
    assert (weights.numpy()[PRESENCE > 0] > 0).all()
    np.testing.assert_allclose(weights.numpy().sum(axis=1), [1, 1, 1, 0], atol=1e-6)


def test_what_is_absent_does_not_matter(layer):
    first, second = _vectors(0), _vectors(1)
    mixed = {name: tf.where(PRESENCE[:, index, None] > 0, first[name], 1e6 * second[name]) for index, name in enumerate(NAMES)}
    for ours, theirs in zip(layer(first, PRESENCE), layer(mixed, PRESENCE), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_rows_do_not_touch_each_other(layer):
    together = layer(_vectors(), PRESENCE)[0].numpy()
    for row in range(4):
        alone = layer({name: value[row : row + 1] for name, value in _vectors().items()}, PRESENCE[row : row + 1])[0]
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_configuration_survives_json(layer):
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    again(_vectors(), PRESENCE)
    again.set_weights(layer.get_weights())
    np.testing.assert_allclose(again(_vectors(), PRESENCE)[0], layer(_vectors(), PRESENCE)[0], atol=1e-6)
    assert again.get_config() == layer.get_config()


@pytest.mark.slow
def test_graph_is_eager(layer):
    eager = layer(_vectors(), PRESENCE)
    for jit in (False, True):
        graph = tf.function(layer.__call__, jit_compile=jit)(_vectors(), tf.constant(PRESENCE))
        for ours, theirs in zip(eager, graph, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_gradient_reaches_every_weight(layer):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(_vectors(), PRESENCE)[0] ** 2)
    for weight, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights), strict=True):
        assert gradient is not None and np.abs(tf.convert_to_tensor(gradient)).max() > 0, weight.name


def test_mixed_precision(layer):
    half = type(layer)(NAMES, 8, dtype="mixed_bfloat16")
    half(_vectors(), PRESENCE)
    half.set_weights(layer.get_weights())
    fused, weights = half(_vectors(), PRESENCE)
    assert fused.dtype == tf.bfloat16 and weights.dtype == tf.float32
    np.testing.assert_allclose(tf.cast(fused, tf.float32), layer(_vectors(), PRESENCE)[0], atol=0.15)


def test_saved_model(layer, tmp_path):
    module = tf.Module()
    module.variables_ = layer.weights
    spec = {name: tf.TensorSpec([None, 8], tf.float32, name=name) for name in NAMES}
    call = tf.function(lambda presence, **vectors: {"fused": layer(vectors, presence)[0]}, autograph=False)
    concrete = call.get_concrete_function(presence=tf.TensorSpec([None, 3], tf.float32, name="presence"), **spec)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=concrete)
    loaded = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    answer = loaded(presence=tf.constant(PRESENCE), **_vectors())["fused"]
    np.testing.assert_allclose(answer, layer(_vectors(), PRESENCE)[0], atol=1e-6)


def test_attention_by_hand():
    layer = fusion.get("attention")(NAMES, 2)
    vectors = {"image": [[1.0, 0.0]], "text": [[0.0, 2.0]], "audio": [[5.0, 5.0]]}
    vectors = {name: tf.constant(value) for name, value in vectors.items()}
    layer(vectors, tf.constant([[1.0, 1.0, 0.0]]))
    layer.kernel.assign(np.eye(2))
    _, weights = layer(vectors, tf.constant([[1.0, 1.0, 0.0]]))
    # x'x / sqrt(2): 1/1.4142 and 4/1.4142; audio is absent.
    scores = np.exp(np.array([1.0, 4.0]) / np.sqrt(2.0))
    np.testing.assert_allclose(weights[0], [*(scores / scores.sum()), 0.0], atol=1e-6)


def test_concat_is_an_mlp_over_the_concatenation():
    layer = fusion.get("concat")(NAMES, 8)
    fused, _ = layer(_vectors(), np.ones((4, 3), np.float32))
    joined = np.concatenate([_vectors()[name] for name in NAMES], axis=1)
    kernel = np.concatenate([dense.kernel.numpy() for dense in layer.hidden])
    hidden = np.maximum(joined @ kernel + layer.bias.numpy(), 0)
    np.testing.assert_allclose(fused, hidden @ layer.out.kernel.numpy() + layer.out.bias.numpy(), atol=1e-5)


def test_unknown_name():
    with pytest.raises(ConfigError, match=r"Received: 'attenton'. Did you mean `attention`\?"):
        fusion.get("attenton")


def test_a_fusion_must_fuse():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (fusion.Fusion,), {})(NAMES, 8)
