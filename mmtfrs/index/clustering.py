"""Vectors in blocks of one size, each a neighborhood: what an approximate search looks through instead of everything."""

from __future__ import annotations

import itertools

import numpy as np
from threadpoolctl import threadpool_limits

_SAMPLE = 64  # vectors per partition from which the centers are found
_CHUNK = 65_536


def make_blocks(vectors: np.ndarray, size: int, partitions: int | None = None, seed: int = 0) -> np.ndarray:
    """Groups vectors that lie together: k-means, then every cluster is halved along its longest axis, at multiples of `size`.

    Halving at multiples leaves at most one block per cluster that is not full.

    Args:
        vectors: `[N, D] float32`.
        size: rows of a block.
        partitions: clusters of the k-means; about the square root of N if None.
        seed: of the sample and the first centers.

    Returns:
        `[blocks, size] int32` rows; -1 pads.

    Reference: inverted files as in Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 2011;
    halving as in principal axis trees, Sproull, Algorithmica 1991.
    """
    partitions = partitions or max(1, min(round(len(vectors) ** 0.5), len(vectors) // (4 * size)))
    nearest = assign(vectors, k_means(vectors, partitions, seed))
    order = np.argsort(nearest, kind="stable").astype(np.int32)
    bounds = np.searchsorted(nearest[order], np.arange(partitions + 1))
    blocks: list[np.ndarray] = []
    with threadpool_limits(1, "blas"):  # on a busy machine its threads wait for each other at every small product
        for start, end in itertools.pairwise(bounds):
            if end > start:
                _halve(vectors, order[start:end], size, blocks)
    table = np.full((len(blocks), size), -1, np.int32)
    for number, rows in enumerate(blocks):
        table[number, : len(rows)] = rows
    return table


def k_means(vectors: np.ndarray, clusters: int, seed: int = 0, rounds: int = 8) -> np.ndarray:
    """`[clusters, D] float32` centers by Lloyd's rounds on a sample; an empty cluster starts again at a random vector."""
    rng = np.random.default_rng(seed)
    sample = vectors
    if len(vectors) > clusters * _SAMPLE:
        sample = vectors[np.sort(rng.choice(len(vectors), clusters * _SAMPLE, replace=False))]
    centers = sample[rng.choice(len(sample), clusters, replace=False)].copy()
    for _ in range(rounds):
        nearest = assign(sample, centers)
        counts = np.bincount(nearest, minlength=clusters)
        order = np.argsort(nearest, kind="stable")
        starts = np.flatnonzero(np.diff(nearest[order], prepend=-1))
        centers[counts > 0] = np.add.reduceat(sample[order], starts) / counts[counts > 0, None]
        empty = np.flatnonzero(counts == 0)
        centers[empty] = sample[rng.choice(len(sample), len(empty), replace=False)]
    return centers


def assign(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """`[N] int32`: the nearest center of each vector."""
    half = 0.5 * (centers**2).sum(axis=1)
    nearest = np.empty(len(vectors), np.int32)
    for start in range(0, len(vectors), _CHUNK):
        part = vectors[start : start + _CHUNK] @ centers.T
        part -= half
        nearest[start : start + _CHUNK] = part.argmax(axis=1)
    return nearest


def _halve(vectors: np.ndarray, rows: np.ndarray, size: int, blocks: list[np.ndarray]) -> None:
    if len(rows) <= size:
        blocks.append(rows)
        return
    part = vectors[rows] - vectors[rows].mean(axis=0)
    axis = part[np.abs(part).sum(axis=1).argmax()]
    for _ in range(4):  # power iteration: near enough to the longest axis
        axis = part.T @ (part @ axis)
        axis /= max(np.linalg.norm(axis), 1e-30)
    half = (-(-len(rows) // size) + 1) // 2 * size
    order = np.argpartition(part @ axis, half - 1) if half < len(rows) else np.arange(len(rows))
    _halve(vectors, rows[order[:half]], size, blocks)
    _halve(vectors, rows[order[half:]], size, blocks)
