"""Every fusion is held to the contract by the public harness, which sees each way to break it."""

from __future__ import annotations

import numpy as np
import pytest

from mmtfrs import fusion
from mmtfrs._keras import keras, tf
from mmtfrs.errors import ConfigError
from mmtfrs.fusion.base import Fusion, masked_share
from mmtfrs.models.scores import SCORES, Score
from mmtfrs.testing import check_fusion, check_score

NAMES = ("image", "text", "audio")


def _vectors(seed=0):
    rng = np.random.default_rng(seed)
    return {name: tf.constant(rng.normal(size=(4, 8)).astype(np.float32)) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(fusion.FUSIONS))
def test_every_fusion_keeps_the_contract(name):
    keras.utils.set_random_seed(0)
    check_fusion(fusion.get(name))


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_keeps_the_contract(name):
    check_score(SCORES[name])


class Mean(Fusion):
    """Sound; the faults below are each one change of it."""

    def fuse(self, vectors, presence):
        weights = masked_share(tf.ones_like(presence), presence)
        return tf.einsum("bm,bmd->bd", tf.cast(weights, vectors.dtype), vectors) + 0 * vectors[:, 0] + self.kept(
            vectors
        ), weights

    def kept(self, vectors):
        return tf.reduce_mean(vectors, axis=1)


def _faulty(**methods):
    return type("Faulty", (Mean,), methods)


def _leaking(self, vectors, presence, training=None):
    fused, weights = Mean.call(self, vectors, presence)
    return fused + 1e-3 * vectors["audio"], weights


def _with_scale(self, modalities, dim, scale=2.0, **kwargs):
    Mean.__init__(self, modalities, dim, **kwargs)
    self.scale = scale + np.random.default_rng().random()  # not in the configuration


FAULTS = {
    "what is fused must be": {
        "fuse": lambda self, vectors, presence: (vectors[:, :2], masked_share(tf.ones_like(presence), presence))
    },
    "weight 0": {"fuse": lambda self, vectors, presence: (tf.reduce_mean(vectors, axis=1), tf.ones_like(presence) / 3.0)},
    "absent must not matter": {"call": _leaking},
    "rows must not touch": {"kept": lambda self, vectors: tf.reduce_mean(vectors, axis=[0, 1])[None] + 0 * vectors[:, 0]},
    "all that makes the layer": {"__init__": _with_scale, "kept": lambda self, vectors: self.scale * vectors[:, 0]},
    "gets no gradient": {
        "kept": lambda self, vectors: tf.stop_gradient(vectors[:, 0]) - 0 * vectors[:, 0],
        "fuse": lambda self, vectors, presence: (self.kept(vectors), masked_share(tf.ones_like(presence), presence)),
    },
}


@pytest.mark.parametrize("said", FAULTS)
def test_a_broken_contract_is_seen(said):
    with pytest.raises(AssertionError, match=said):
        check_fusion(_faulty(**FAULTS[said]))


def test_a_broken_score_is_seen():
    with pytest.raises(AssertionError, match="finite, also for a vector of zeros"):
        check_score(Score(tf.identity, lambda x: x / tf.norm(x, axis=-1, keepdims=True)))
    with pytest.raises(AssertionError, match=r"`query` must give \(4, 9\) float32"):
        check_score(Score(tf.identity, tf.identity, extra=1))


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
