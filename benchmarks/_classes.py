"""Content queries by what items are: whether a text, image or sound finds items of its class, where classes are known."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from scipy.stats import ttest_rel

from benchmarks._datasets import Dataset
from mmtfrs._keras import tf
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.models.two_tower import TwoTower

PAIRS = (("text", "image"), ("text", "audio"), ("image", "audio"), ("audio", "image"))


def labels(data: Dataset) -> dict[str, np.ndarray]:
    """`{modality: [N]}` class of each item as this modality shows it: the digit that it is, the same for all, or what the demo
    planted in each on its own; empty where nobody knows."""
    ids, truth = data.catalog.ids, data.catalog.folder / "truth.json"
    planted = json.loads(truth.read_text()).get("factors") if truth.exists() else None
    if planted:
        return {name: np.array([of[item] for item in ids]) for name, of in planted.items() if set(ids) <= set(of)}
    if all("-" in item for item in ids) and truth.exists():
        return dict.fromkeys(("text", "image", "audio"), np.array([item.partition("-")[0] for item in ids]))
    return {}


def by_class(model: TwoTower, data: Dataset, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields `(asked by, metrics)`: the share of the first ten that are of the asked class, of all items and of those known by
    one other modality alone; and recall@20 of an item of each user, asked for by the user, by a medium of *another* item of
    its class, and by both, with the p value of a paired test of both against the better."""
    rng, rows, kinds = np.random.default_rng(seed), np.arange(1, len(data.catalog) + 1), labels(data)
    presence = model.device.item_media(tf.constant(rows))[1].numpy()
    everything = model.candidate_embeddings()
    task = RankingTask(model.data, data.split.test)
    wanted = np.array([rng.choice(items) for items in task.relevant])
    user = model.query_embeddings(task.users, task.pasts)
    for index, name in enumerate(model.data.modalities):
        if name not in kinds:
            continue
        classes = kinds[name]
        alone, there = _only(model, index), np.flatnonzero(presence[:, index])
        asked = model.query_from_items(tf.constant(rows[there]), alone).numpy()
        as_item = model.candidate_from_items(tf.constant(rows[there]), alone, ids=False).numpy()
        metrics = {
            "same class@10": _same(asked @ everything.T, classes[there], classes),
            "by candidate tower": _same(as_item @ everything.T, classes[there], classes),
        }
        for _, other in [pair for pair in PAIRS if pair[0] == name and kinds.get(pair[1]) is classes]:
            place = model.data.modalities.index(other)
            known = np.flatnonzero(presence[:, place])
            items = model.candidate_from_items(tf.constant(rows[known]), _only(model, place), ids=False).numpy()
            metrics[f"{other} alone"] = _same(asked @ items.T, classes[there], classes[known])
        shown = np.array([rng.choice(np.setdiff1d(np.flatnonzero(classes == classes[item]), item)) for item in wanted])
        has = np.flatnonzero(presence[shown, index])
        medium = model.query_from_items(tf.constant(rows[shown[has]]), alone).numpy()
        both = model.query_from_items(tf.constant(rows[shown[has]]), alone, user[has]).numpy()
        pasts = task.pasts.take(has)
        hits = {
            way: _hits(query @ everything.T, wanted[has], pasts)
            for way, query in (("user", user[has]), ("medium", medium), ("both", both))
        }
        better = max(hits["user"], hits["medium"], key=np.mean)
        metrics |= {f"{way}@20": float(np.mean(value)) for way, value in hits.items()}
        metrics["over the better"] = float(np.mean(hits["both"]) / np.mean(better))
        metrics["p"] = float(ttest_rel(hits["both"], better).pvalue)
        yield name, metrics


def _only(model: TwoTower, index: int) -> np.ndarray:
    return np.eye(len(model.data.modalities), dtype=np.float32)[index][None]


def _same(scores: np.ndarray, asked: np.ndarray, classes: np.ndarray) -> float:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return float((classes[best] == asked[:, None]).mean())


def _hits(scores: np.ndarray, wanted: np.ndarray, pasts) -> np.ndarray:
    for row, past in enumerate(pasts):
        scores[row, past - 1] = -np.inf
    return (np.argsort(-scores, axis=1, kind="stable")[:, :20] == wanted[:, None]).any(axis=1).astype(float)
