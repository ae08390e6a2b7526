"""How close two embeddings are, each way as one inner product, so that one index serves them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mmtfrs._keras import tf
from mmtfrs.errors import ConfigError, nearest
from mmtfrs.utils.extensions import imported, is_import_path


class Score(NamedTuple):
    """A score `s(q, c)` as `query(q) . candidate(c)`.

    Attributes:
        query, candidate: `[B, D] -> [B, D + extra] float32`, what is stored, indexed and multiplied.
        extra: numbers that the score adds to an embedding.
    """

    query: Callable[[tf.Tensor], tf.Tensor]
    candidate: Callable[[tf.Tensor], tf.Tensor]
    extra: int = 0


def _unit(x: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(x, axis=-1, epsilon=1e-12)


def _centered(x: tf.Tensor) -> tf.Tensor:
    return _unit(x - tf.reduce_mean(x, axis=-1, keepdims=True))


def _square(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(x * x, axis=-1, keepdims=True)


# -|q - c|^2 = 2 q.c - |q|^2 - |c|^2, an inner product of vectors that are two numbers longer (Bachrach et al., Speeding Up the
# Xbox Recommender System Using a Euclidean Transformation for Inner-Product Spaces, RecSys 2014, the other way round).
SCORES: dict[str, Score] = {
    "cosine": Score(_unit, _unit),
    "dot": Score(tf.identity, tf.identity),
    "euclidean": Score(
        lambda q: tf.concat([2.0 * q, -_square(q), tf.ones_like(q[..., :1])], axis=-1),
        lambda c: tf.concat([c, tf.ones_like(c[..., :1]), -_square(c)], axis=-1),
        extra=2,
    ),
    "pearson": Score(_centered, _centered),
}


def get(name: str) -> Score:
    """The score of a name or an import path. Raises `ConfigError` for what is unknown, cannot be imported, or is no `Score`."""
    if is_import_path(name):
        found = imported(name, "model.score")
        if not isinstance(found, Score):
            raise ConfigError(f"`model.score` {name}: must be a mmtfrs.models.scores.Score. Received: {found!r}.")
        return found
    if name not in SCORES:
        raise ConfigError(f"`model.score` must be one of {', '.join(SCORES)}. Received: {name!r}.{nearest(name, SCORES)}")
    return SCORES[name]
