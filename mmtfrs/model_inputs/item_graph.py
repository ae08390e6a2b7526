"""A frozen graph of similar items, smoothed into their features before training."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmtfrs.config.schema import GraphConfig
from mmtfrs.errors import ConfigError
from mmtfrs.model_inputs.feature_table import MediaRows

_CHUNK = 1024


def smooth(media: MediaRows, modality: str, config: GraphConfig) -> MediaRows:
    """Mixes each medium's features with those of its nearest neighbors: `x <- (1 - share) x + share D^-1/2 A D^-1/2 x`.

    A joins media of which one is among the nearest neighbors (cosine) of the other. As every item keeps one vector, nothing
    changes at serving time; an item that comes later has its own features.

    Args:
        media: of the items.
        modality: for messages.
        config: neighbors, layers and share.

    Raises:
        ConfigError: there are not more media than neighbors.

    Reference: the frozen item-item graph of Zhou and Shen, FREEDOM, ACM Multimedia 2023, arXiv:2211.06924; after LATTICE,
    Zhang et al., ACM Multimedia 2021, arXiv:2104.09036.
    """
    vectors = np.asarray(media.matrix[1:], np.float32)
    if len(vectors) <= config.neighbors:
        raise ConfigError(
            f"`model.graph.neighbors` must be less than the number of different media. "
            f"Received: {config.neighbors} neighbors, {len(vectors)} items with {modality}. Use fewer, or 0 for no graph."
        )
    first, second, weights = edges(vectors, config.neighbors)
    starts = np.flatnonzero(np.append(True, first[1:] != first[:-1]))
    for _ in range(config.layers):
        mixed = np.empty_like(vectors)
        for start in range(0, len(starts), _CHUNK):
            part = starts[start : start + _CHUNK]
            stop = starts[start + _CHUNK] if start + _CHUNK < len(starts) else len(first)
            messages = vectors[second[part[0] : stop]] * weights[part[0] : stop, None]
            mixed[first[part]] = np.add.reduceat(messages, part - part[0], axis=0)
        vectors = (1.0 - config.share) * vectors + config.share * mixed
    # The mean square stays 1 over all components, as the adapter left it.
    vectors /= max(float(np.sqrt(np.mean(vectors**2))), 1e-12)
    smoothed = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
    # A view of a medium is as far from it as it was.
    views = None if media.views is None else media.views + (smoothed - media.matrix)
    return dataclasses.replace(media, matrix=smoothed, views=views)


def edges(vectors: np.ndarray, neighbors: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`[n, d]` -> the symmetric graph of nearest neighbors as `(first, second, weight)`, sorted by `first`."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    near = np.empty((len(units), neighbors), np.int64)
    for start in range(0, len(units), _CHUNK):
        similar = units[start : start + _CHUNK] @ units.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -np.inf
        near[start : start + _CHUNK] = np.argpartition(-similar, neighbors - 1, axis=1)[:, :neighbors]
    pairs = np.stack([np.repeat(np.arange(len(units)), neighbors), near.ravel()], axis=1)
    first, second = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0).T
    degree = np.bincount(first, minlength=len(units)).astype(np.float32)
    return first, second, 1.0 / np.sqrt(degree[first] * degree[second])
