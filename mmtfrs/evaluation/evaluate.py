"""Evaluation over the whole catalogue: every item is ranked for every user, seen items left out, nothing is sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.evaluation.metrics import ListMetrics, ranking_metrics
from mmtfrs.evaluation.ratings import rating_errors
from mmtfrs.evaluation.scorers import ModelScorer, PopularityScorer, Scorer
from mmtfrs.features.tables import Tables
from mmtfrs.models.histories import Histories
from mmtfrs.models.two_tower import TwoTower

_SCORES = 1 << 25  # scores held at a time: 128 MiB
_USERS = 256  # users at a time, who share the order in which ties fall


def evaluate(
    model: TwoTower,
    events: Events,
    against: dict[str, TwoTower | Scorer] | None = None,
    ks: Sequence[int] | None = None,
) -> dict[str, dict]:
    """Ranks the whole catalogue for every user of `events`.

    Args:
        model: a trained model.
        events: the validation or test part of a split. What its `known` events hold is the users' history and is left
            out of the answers; without `known`, users are taken as new.
        against: other models or scorers to put beside it, by name; popularity is always there.
        ks: list lengths; the config's if None.

    Returns:
        `{"model": metrics, "popularity": metrics, ...}`. Metrics hold each `metric@k`, and the groups `new_users` (users
        without a known event), `new_items` (ranked among all, relevant are items without a training event) and
        `new_items_among_themselves` (only such items are ranked), with `share_of_lists` and `share_of_catalogue` of the new
        items. Groups that are empty are absent. A model with the rating task has `rating_mae` and `rating_rmse` as well.

    Raises:
        DataError: no event can be evaluated.
    """
    ks = tuple(sorted(ks or model.config.evaluation.ks))
    questions = Questions(model.data, events, model.config.model.history_length)
    scorers: dict[str, Scorer] = {
        "model": ModelScorer(model),
        "popularity": PopularityScorer(model.data.item_counts[1:]),
    }
    for name, other in (against or {}).items():
        scorers[name] = ModelScorer(other) if isinstance(other, TwoTower) else other
    results = {name: questions.ask(scorer, ks) for name, scorer in scorers.items()}
    if model.rating is not None and events.ratings is not None:
        results["model"] |= rating_errors(model, events)
    return results


class Questions:
    """The users of a part of the log, what is relevant to each and what each has seen.

    Args:
        tables: the model's ids and counts.
        events: what is to be predicted.
        length: newest items of a history that a model may see.
    """

    def __init__(self, tables: Tables, events: Events, length: int) -> None:
        self.tables = tables
        empty = events.take(np.array([], np.int64))
        self.histories = Histories(tables, events.known if events.known is not None else empty, length)
        wanted = Histories(tables, events, length)
        self.users: list[str] = []
        self.relevant: list[np.ndarray] = []
        for user in dict.fromkeys(events.user_ids):
            # An item that was taken before cannot be recommended again, so it cannot be asked for either.
            items = np.setdiff1d(wanted.past(user), self.histories.past(user)) - 1
            if len(items):
                self.users.append(user)
                self.relevant.append(items)
        if not self.users:
            raise DataError("there is nothing to evaluate: no event of this part is on an item its user had not seen.")
        self.new_items = tables.item_counts[1:] == 0
        self.content = content_vectors(tables)

    def ask(self, scorer: Scorer, ks: Sequence[int], per_user: list | None = None) -> dict:
        """Metrics of one scorer; see `evaluate`. A list takes `{metric@k: [n]}` of each user, in chunks."""
        items = len(self.new_items)
        chunk = max(1, min(_USERS, _SCORES // items))
        overall, new_items, among = _Means(), _Means(), _Means()
        groups = {True: _Means(), False: _Means()}
        lists = ListMetrics(ks, self.tables.item_counts[1:], self.content)
        newly_listed = listed = 0
        depth = min(max(ks), items)
        for start in range(0, len(self.users), chunk):
            users = np.array(self.users[start : start + chunk], object)
            relevant = self.relevant[start : start + chunk]
            scores = np.array(scorer.scores(users, self.histories), np.float32)
            # Exact ties fall in random orders, the same ones for every scorer: one that cannot tell items apart is at
            # chance, not at the mercy of the catalogue's order.
            order = np.random.default_rng(start).permutation(items)
            for row, user in enumerate(users):
                scores[row, self.histories.past(user) - 1] = -np.inf
            top = self._top(scores, order, depth)
            lists.update(top)
            listed += (top >= 0).sum()
            newly_listed += self.new_items[top[top >= 0]].sum()
            metrics = _metrics(top, relevant, ks)
            overall.add(metrics)
            if per_user is not None:
                per_user.append(metrics)
            known = np.array([len(self.histories.past(user)) > 0 for user in users])
            for value, group in groups.items():
                group.add({name: values[known == value] for name, values in metrics.items()})
            fresh = [items[self.new_items[items]] for items in relevant]
            rows = np.flatnonzero([len(items) for items in fresh])
            if len(rows):
                fresh = [fresh[row] for row in rows]
                new_items.add(_metrics(top[rows], fresh, ks))
                order = order[self.new_items[order]]
                among.add(_metrics(self._top(scores[rows], order, min(depth, len(order))), fresh, ks))
        result = {"users": len(self.users), **overall.result(), **lists.result()}
        if groups[False].count:
            result["known_users"] = {"users": groups[True].count, **groups[True].result()}
            result["new_users"] = {"users": groups[False].count, **groups[False].result()}
        if new_items.count:
            shares = {
                "share_of_lists": float(newly_listed / listed),
                "share_of_catalogue": float(self.new_items.mean()),
            }
            result["new_items"] = {"users": new_items.count, **shares, **new_items.result()}
            result["new_items_among_themselves"] = {
                "users": among.count, "items": int(self.new_items.sum()), **among.result()
            }  # fmt: skip
        return result

    @staticmethod
    def _top(scores: np.ndarray, order: np.ndarray, depth: int) -> np.ndarray:
        """`[n, depth]` item indices, best first, -1 where only seen items are left."""
        values, places = tf.math.top_k(scores[:, order], depth)
        return np.where(np.isneginf(values.numpy()), -1, order[places.numpy()])


def _metrics(top: np.ndarray, relevant: list[np.ndarray], ks: Sequence[int]) -> dict[str, np.ndarray]:
    counts = np.array([len(items) for items in relevant])
    # One number per (list, item), so that all lists are looked up at once.
    base = int(max(top.max(), *(items.max() for items in relevant))) + 2
    wanted = np.concatenate([row * base + items for row, items in enumerate(relevant)])
    asked = np.arange(len(top))[:, None] * base + top
    return ranking_metrics(np.isin(asked, wanted) & (top >= 0), counts, ks)


class _Means:
    """Running means of per-list metrics."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, float] = {}

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        self.count += len(next(iter(metrics.values())))
        for name, values in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())

    def result(self) -> dict[str, float]:
        return {name: total / max(self.count, 1) for name, total in self._sums.items()}


def content_vectors(tables: Tables) -> np.ndarray | None:
    """`[N, d]` unit vectors of the items' media, the same whatever model is asked; None without media."""
    parts = []
    for table in tables.items.values():
        values = np.asarray(table.matrix, np.float32)[table.rows[1:]]
        parts.append(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
    if not parts:
        return None
    joined = np.concatenate(parts, axis=1)
    return joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)
