"""Whether a text, an image or audio finds what it should: an item by its own medium, by another one, and for a user."""

from __future__ import annotations

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.model_inputs.item_lists import ItemLists
from mmtfrs.models.two_tower import TwoTower

_ASKED = 2000  # items, or users, drawn at most
_K = 20


def content_queries(model: TwoTower, task: RankingTask, seed: int = 0) -> dict[str, dict[str, float]]:
    """Asks for every item by one of its own media.

    Args:
        model: trained, on items with media.
        task: of the users that are asked for by what they are like to want.
        seed: of what is drawn where there is much.

    Returns:
        `{modality: metrics}`, of a query that is nothing but this medium: `itself@1` and `itself@20`, the share of items that
        are found by their own; the same as `by candidate tower@k`, by the embedding of a new item that has only this medium;
        `cross-modal@20`, where the items that are searched lack the modality and are known by others. And `user@20`,
        `medium@20` and `both@20`: a user's item, asked for by the user, by the medium of the item that is most like it in this
        modality, and by both. Items that nothing tells apart share their places.
    """
    if model.voting or not model.data.modalities:
        return {}
    rng = np.random.default_rng(seed)
    everything = tf.constant(model.candidate_embeddings())
    rows = tf.range(1, len(model.data.item_ids) + 1)
    presence = model.device.item_media(rows)[1].numpy()
    results = {}
    for index, name in enumerate(model.data.modalities):
        alone = np.zeros((1, presence.shape[1]), np.float32)
        alone[0, index] = 1.0
        asked = _drawn(rng, np.flatnonzero(presence[:, index]))
        queries = model.query_from_items(tf.gather(rows, asked), alone)
        as_items = model.candidate_from_items(tf.gather(rows, asked), alone, ids=False)
        metrics: dict[str, float] = {"items": len(asked)}
        for k in (1, _K):
            metrics[f"itself@{k}"] = _found(model, queries, everything, asked, k)
            metrics[f"by candidate tower@{k}"] = _found(model, as_items, everything, asked, k)
        others = np.flatnonzero(presence[asked] @ (1.0 - alone[0]))
        if len(others):
            without = model.candidate_from_items(rows, 1.0 - alone)
            metrics[f"cross-modal@{_K}"] = _found(model, tf.gather(queries, others), without, asked[others], _K)
        results[name] = metrics | _personal(model, task, everything, asked, alone, queries, rng)
    return results


def _personal(
    model: TwoTower,
    task: RankingTask,
    everything: tf.Tensor,
    asked: np.ndarray,
    alone: np.ndarray,
    queries: tf.Tensor,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Recall of one item of each user, by the user, by a medium like the item's, and by both.

    Args:
        model, task: as `content_queries` has them.
        everything: `[N, W]`, the catalog.
        asked: `[A]` items that have the modality.
        alone: `[1, M]`, 1 at the modality.
        queries: `[A, W]`, by the medium of each and nothing else.
        rng: of what is drawn.
    """
    places = np.full(len(model.data.item_ids), -1)
    places[asked] = np.arange(len(asked))
    wanted = [rng.choice(items) for items in task.relevant]
    users = _drawn(rng, np.flatnonzero(places[wanted] >= 0))
    if len(asked) < 2 or not len(users):
        return {}
    wanted = np.array(wanted)[users]
    # The item that is most like the wanted one, in the space of this modality alone.
    likeness = tf.linalg.set_diag(tf.matmul(queries, queries, transpose_b=True), tf.fill([len(asked)], -np.inf)).numpy()
    nearest = likeness.argmax(axis=1)[places[wanted]]
    names, pasts = task.users[users], task.pasts.take(users)
    user = tf.constant(model.query_embeddings(names, pasts))
    left_out = None if task.repeats else pasts
    both = model.query_from_items(tf.constant(asked[nearest] + 1, tf.int32), alone, user)
    ways = {"user": user, "medium": tf.gather(queries, nearest), "both": both}
    return {"users": len(users)} | {
        f"{way}@{_K}": _found(model, query, everything, wanted, _K, left_out) for way, query in ways.items()
    }


def _found(
    model: TwoTower, queries: tf.Tensor, candidates: tf.Tensor, wanted: np.ndarray, k: int, pasts: ItemLists | None = None
) -> float:
    """The share of queries that have the wanted item among the best k."""
    hits = []
    for start in range(0, len(wanted), 256):
        scores = model.score_matrix(queries[start : start + 256], candidates).numpy()
        part = wanted[start : start + 256]
        if pasts is not None:
            past = pasts.take(np.arange(start, start + len(part)))
            scores[past.owners, past.items - 1] = -np.inf
        own = scores[np.arange(len(part)), part][:, None]
        ahead, equal = (scores > own + 1e-6).sum(axis=1), (np.abs(scores - own) <= 1e-6).sum(axis=1)
        hits.append(np.clip((k - ahead) / equal, 0.0, 1.0))
    return float(np.concatenate(hits).mean())


def _drawn(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    return np.sort(rng.permutation(rows)[:_ASKED])
