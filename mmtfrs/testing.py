"""Holds a fusion, a score or an encoder of your own to what the library expects of it.

Each function raises `AssertionError`, with what is wrong, or returns nothing. The library's own parts are tested by the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from mmtfrs._keras import keras, tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.base import Encoder
from mmtfrs.fusion.base import Fusion
from mmtfrs.models.scores import Score

_NAMES, _DIM = ("image", "text", "audio"), 8
_PRESENCE = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], np.float32)


def check_fusion(make: Callable[..., Fusion]) -> None:
    """Checks a fusion.

    Shapes and dtypes; weights that are shares of what is present; that what is absent does not matter, nor the other rows of a
    batch; that it can be made again from its configuration; that graph and XLA give what eager execution gives; that every
    weight gets a gradient; bfloat16; and a SavedModel.

    Args:
        make: the class, or whatever makes one of `(modalities, dim, **keras_arguments)`.

    Example:
        >>> from mmtfrs.fusion.gated import GatedFusion
        >>> check_fusion(GatedFusion)
    """
    layer = make(_NAMES, _DIM)
    layer(_vectors(), _PRESENCE)
    rng = np.random.default_rng(9)
    layer.set_weights([weight + 0.1 * rng.normal(size=weight.shape) for weight in layer.get_weights()])
    for check in (_shapes, _absent, _rows, _configuration, _graphs, _gradients, _half, _saved):
        check(layer)


def check_score(score: Score) -> None:
    """Checks a score: shapes with and without blocks, finite numbers also for zeros, one inner product, XLA.

    Example:
        >>> from mmtfrs.models.scores import SCORES
        >>> check_score(SCORES["cosine"])
    """
    rng = np.random.default_rng(0)
    for shape in ((4, _DIM), (4, 3, _DIM)):
        vectors = tf.constant(np.concatenate([rng.normal(size=(3, *shape[1:])), np.zeros((1, *shape[1:]))]), tf.float32)
        for name, side in (("query", score.query), ("candidate", score.candidate)):
            found = side(vectors)
            expected = (*shape[:-1], _DIM + score.extra)
            assert found.shape == expected and found.dtype == tf.float32, f"`{name}` must give {expected} float32"
            assert np.isfinite(found).all(), f"`{name}` must be finite, also for a vector of zeros"
            compiled = tf.function(side, jit_compile=True, autograph=False)(vectors)
            np.testing.assert_allclose(compiled, found, atol=1e-5, err_msg=f"`{name}` must give the same under XLA")


def check_encoder(encoder: Encoder, media: Sequence[str | bytes]) -> None:
    """Checks an encoder on some media.

    Features of the size that it says; the same again, and the same for a medium alone and among others; `encode_serialized`,
    which the exported graph runs, equal to `encode`, also out of a SavedModel.

    Args:
        encoder: loaded.
        media: two or more, as texts or as the bytes of files, none of them broken.

    Example:
        >>> from mmtfrs import encoders
        >>> check_encoder(encoders.load("text", "offline"), ["a red shoe", "a rocket"])
    """
    assert encoder.fingerprint and isinstance(encoder.fingerprint, str), "`fingerprint` must be a text that is not empty"
    together, present = encoder.encode(list(media))
    assert together.shape == (len(media), encoder.dim) and together.dtype == np.float32, "`encode` must give [B, dim] float32"
    assert present.all() and np.isfinite(together).all(), "sound media must be encoded, to finite numbers"
    np.testing.assert_array_equal(
        encoder.encode(list(media))[0], together, err_msg="the same media must have the same features"
    )
    for row, medium in enumerate(media):
        np.testing.assert_allclose(
            encoder.encode([medium])[0][0],
            together[row],
            rtol=1e-3,
            atol=1e-4,
            err_msg="a medium must not depend on the others of its batch",
        )
    bounds = ExtractionConfig()
    raw = tf.constant([medium if isinstance(medium, bytes) else medium.encode() for medium in media])
    serialized, problems = encoder.encode_serialized(raw, bounds)
    assert not b"".join(problems.numpy()), "`encode_serialized` must have no problem with sound media"
    np.testing.assert_allclose(
        serialized, together, rtol=1e-2, atol=1e-2, err_msg="`encode_serialized` must give what `encode` gives"
    )
    module = tf.Module()
    module.parts = encoder.trackables
    call = tf.function(lambda data: {"features": encoder.encode_serialized(data, bounds)[0]}, autograph=False)
    answer = _reloaded(module, call.get_concrete_function(tf.TensorSpec([None], tf.string, name="data")))(data=raw)
    np.testing.assert_allclose(
        answer["features"], serialized, rtol=1e-5, atol=1e-5, err_msg="`trackables` must hold all that a SavedModel needs"
    )


def _vectors(seed: int = 0) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(seed)
    return {name: tf.constant(rng.normal(size=(4, _DIM)), tf.float32) for name in _NAMES}


def _shapes(layer: Fusion) -> None:
    fused, weights = layer(_vectors(), _PRESENCE)
    expected = (4, _DIM) if layer.blocks == 1 else (4, layer.blocks, _DIM)
    assert fused.shape == expected, f"what is fused must be {expected}; it is {fused.shape}"
    assert weights.shape == (4, 3) and weights.dtype == tf.float32, "weights must be [B, M] float32"
    assert not (weights.numpy() * (1 - _PRESENCE)).any(), "an absent modality must have weight 0"
    assert (weights.numpy()[_PRESENCE > 0] > 0).all(), "a present modality must have a weight above 0"
    np.testing.assert_allclose(weights.numpy().sum(axis=1), [1, 1, 1, 0], atol=1e-6, err_msg="weights must sum to 1, or to 0")


def _absent(layer: Fusion) -> None:
    first, second = _vectors(0), _vectors(1)
    mixed = {name: tf.where(_PRESENCE[:, row, None] > 0, first[name], 1e6 * second[name]) for row, name in enumerate(_NAMES)}
    for ours, theirs in zip(layer(first, _PRESENCE), layer(mixed, _PRESENCE), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg="what is absent must not matter")


def _rows(layer: Fusion) -> None:
    together = layer(_vectors(), _PRESENCE)[0].numpy()
    for row in range(4):
        alone = layer({name: value[row : row + 1] for name, value in _vectors().items()}, _PRESENCE[row : row + 1])[0]
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5, err_msg="rows must not touch each other")


def _configuration(layer: Fusion) -> None:
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    again(_vectors(), _PRESENCE)
    again.set_weights(layer.get_weights())
    said = "`get_config` must say all that makes the layer"
    np.testing.assert_allclose(again(_vectors(), _PRESENCE)[0], layer(_vectors(), _PRESENCE)[0], atol=1e-6, err_msg=said)
    assert again.get_config() == layer.get_config(), said


def _graphs(layer: Fusion) -> None:
    eager = layer(_vectors(), _PRESENCE)
    for compiled in (False, True):
        graph = tf.function(layer.__call__, jit_compile=compiled)(_vectors(), tf.constant(_PRESENCE))
        for ours, theirs in zip(eager, graph, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=f"a graph {'under XLA ' * compiled}must give the same")


def _gradients(layer: Fusion) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(_vectors(), _PRESENCE)[0] ** 2)
    for weight, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights), strict=True):
        assert gradient is not None and np.abs(tf.convert_to_tensor(gradient)).max() > 0, f"{weight.name} gets no gradient"


def _half(layer: Fusion) -> None:
    half = type(layer).from_config({**layer.get_config(), "dtype": keras.mixed_precision.Policy("mixed_bfloat16")})
    half(_vectors(), _PRESENCE)
    half.set_weights(layer.get_weights())
    fused, weights = half(_vectors(), _PRESENCE)
    assert fused.dtype == tf.bfloat16 and weights.dtype == tf.float32, (
        "mixed precision must fuse in bfloat16, with float32 weights"
    )
    np.testing.assert_allclose(tf.cast(fused, tf.float32), layer(_vectors(), _PRESENCE)[0], atol=0.3, err_msg="bfloat16")


def _saved(layer: Fusion) -> None:
    module = tf.Module()
    module.parts = layer.weights
    spec = {name: tf.TensorSpec([None, _DIM], tf.float32, name=name) for name in _NAMES}
    call = tf.function(lambda presence, **vectors: {"fused": layer(vectors, presence)[0]}, autograph=False)
    concrete = call.get_concrete_function(presence=tf.TensorSpec([None, 3], tf.float32, name="presence"), **spec)
    answer = _reloaded(module, concrete)(presence=tf.constant(_PRESENCE), **_vectors())["fused"]
    np.testing.assert_allclose(answer, layer(_vectors(), _PRESENCE)[0], atol=1e-6, err_msg="a SavedModel must give the same")


def _reloaded(module: tf.Module, signature: tf.types.experimental.ConcreteFunction) -> Callable[..., dict[str, tf.Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signature)
        return tf.saved_model.load(folder).signatures["serving_default"]
