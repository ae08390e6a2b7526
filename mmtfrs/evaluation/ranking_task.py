"""Evaluation over the whole catalog: every item is ranked for every user, seen items left out, nothing is sampled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.evaluation.content_queries import content_queries
from mmtfrs.evaluation.metrics import ListMetrics, ranking_metrics
from mmtfrs.evaluation.ratings import rating_errors
from mmtfrs.evaluation.scorers import ModelScorer, PopularityScorer, Scorer
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.histories import Histories
from mmtfrs.models.two_tower import TwoTower

_SCORES = 1 << 25  # scores held at a time: 128 MiB
_EVENTS = 20_000  # that a rolling task asks for at most
_USERS = 256  # users at a time, who share the order in which ties fall


def evaluate(
    model: TwoTower, events: Events, against: dict[str, TwoTower | Scorer] | None = None, ks: Sequence[int] | None = None
) -> dict[str, dict]:
    """Ranks the whole catalog for every user of `events`.

    Args:
        model: a trained model.
        events: the validation or test part of a split. What its `known` events hold is the users' history and is left
            out of the answers; without `known`, users are taken as new.
        against: other models or scorers to put beside it, by name; popularity is always there.
        ks: list lengths; the config's if None.

    Returns:
        `{"model": metrics, "popularity": metrics, ...}`. Metrics hold each `metric@k`, and groups, of which the empty ones are
        absent: `new_users` (users without a known event), `new_items` (ranked among all, relevant are items without a training
        event) and `cold_items_only` (only such items are ranked), with `share_of_lists` and `share_of_catalog` of
        the new items. `rolling` asks anew before every event of a part that is later than all that is known, with what its
        user took until then; with `evaluation.history: rolling` this is what the metrics are of, and `static` the group.
        `content_queries` are those of `mmtfrs.evaluation.content_queries`. A model with the rating task has `rating_mae` and
        `rating_rmse` as well.

    Raises:
        DataError: no event can be evaluated.

    Example:
        >>> metrics = evaluate(model, split.test, ks=(5,))
        >>> sorted(metrics), 0 <= metrics["model"]["recall@5"] <= 1
        (['model', 'popularity'], True)
    """

    def given(other: TwoTower | Scorer) -> Callable[[], TwoTower | Scorer]:
        return lambda: other

    return dict(evaluated(model, events, {name: given(other) for name, other in (against or {}).items()}, ks))


def evaluated(
    model: TwoTower,
    events: Events,
    against: Mapping[str, Callable[[], TwoTower | Scorer | None]],
    ks: Sequence[int] | None = None,
    done: Collection[str] = (),
) -> Iterator[tuple[str, dict]]:
    """As `evaluate`, a scorer at a time, made when its turn comes, and left out where there is None.

    Args:
        model, events, ks: as for `evaluate`.
        against: what makes each of the others.
        done: names of those that need not be asked again.

    Yields:
        `(name, metrics)`.
    """
    ks = tuple(sorted(ks or model.config.evaluation.ks))
    task = RankingTask(model.data, events, model.repeats)
    makers: dict[str, Callable[[], TwoTower | Scorer | None]] = {"model": lambda: model}
    makers["popularity"] = lambda: PopularityScorer(model.data.item_counts[1:])
    if np.isfinite(model.data.fade):
        makers["recent"] = lambda: PopularityScorer(model.data.faded[1:])
    makers |= against
    beside, group = task.rolling(), "rolling"
    if beside is not None and model.config.evaluation.history == "rolling":
        task, beside, group = beside, task, "static"
    for name, make in makers.items():
        other = make() if name not in done else None
        if other is None:
            continue
        scorer = ModelScorer(other) if isinstance(other, TwoTower) else other
        metrics = task.evaluate(scorer, ks)
        if beside is not None:
            metrics[group] = beside.evaluate(scorer, ks)
        if name == "model":
            if content := content_queries(model, task):
                metrics["content_queries"] = content
            if model.rating is not None and events.ratings is not None:
                metrics |= rating_errors(model, events)
        yield name, metrics


class RankingTask:
    """The users of a part of the log, what is relevant to each and what each has seen.

    Args:
        tables: the model's ids and counts.
        events: what is to be predicted.
        repeats: whether items that were taken before may be answered, and are asked for.

    Attributes:
        users: who is asked for, once each; in a rolling task once per event.
        pasts: item rows that are known of each, oldest first.
        relevant: indices of the items that are to be found.
    """

    def __init__(self, tables: ModelInputs, events: Events, repeats: bool = False) -> None:
        self.tables = tables
        self.repeats = repeats
        self._events = events
        known, wanted = (Histories(tables, part, 0) for part in (_known(events), events))
        self.users: list[str] = []
        self.pasts: list[np.ndarray] = []
        self.relevant: list[np.ndarray] = []
        for user in dict.fromkeys(events.user_ids):
            self._add(user, known.past(user), wanted.past(user))
        if not self.users:
            raise DataError("there is nothing to evaluate: no event of this part is on an item its user had not seen.")
        self.new_items = tables.item_counts[1:] == 0
        self.content = content_vectors(tables)

    def rolling(self) -> RankingTask | None:
        """A question before each event, with all that its user took until then, also in this part: how a model that is sent
        histories is asked. None where what is known is not older than the part, or nobody comes twice. Of very many events
        some are drawn."""
        events, known = self._events, _known(self._events)
        if not len(known) or known.timestamps.max() > events.timestamps.min():
            return None
        asked = copy.copy(self)
        asked.users, asked.pasts, asked.relevant = [], [], []
        before, wanted = (Histories(self.tables, part, 0) for part in (known, events))
        for user in dict.fromkeys(events.user_ids):
            items = wanted.past(user)
            for place, item in enumerate(items):
                asked._add(user, np.concatenate([before.past(user), items[:place]]), np.array([item]))
        if len(asked.users) == len(self.users):
            return None
        if len(asked.users) > _EVENTS:
            rows = np.sort(np.random.default_rng(0).permutation(len(asked.users))[:_EVENTS])
            for name in ("users", "pasts", "relevant"):
                setattr(asked, name, [getattr(asked, name)[row] for row in rows])
        return asked

    def _add(self, user: str, past: np.ndarray, wanted: np.ndarray) -> None:
        # An item that was taken before cannot be recommended again, so it cannot be asked for either.
        items = np.unique(wanted) if self.repeats else np.setdiff1d(wanted, past)
        if len(items):
            self.users.append(user)
            self.pasts.append(past)
            self.relevant.append(items - 1)

    def evaluate(self, scorer: Scorer, ks: Sequence[int], per_user: list | None = None) -> dict:
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
            pasts = self.pasts[start : start + chunk]
            scores = np.array(scorer.scores(users, pasts), np.float32)
            # Exact ties fall in random orders, the same ones for every scorer: one that cannot tell items apart is at
            # chance, not at the mercy of the catalog's order.
            order = np.random.default_rng(start).permutation(items)
            for row, past in enumerate(pasts if not self.repeats else ()):
                scores[row, past - 1] = -np.inf
            top = self._top(scores, order, depth)
            lists.update(top)
            listed += int((top >= 0).sum())
            newly_listed += int(self.new_items[top[top >= 0]].sum())
            metrics = _metrics(top, relevant, ks)
            overall.add(metrics)
            if per_user is not None:
                per_user.append(metrics)
            known = np.array([len(past) > 0 for past in pasts])
            for value, group in groups.items():
                group.add({name: values[known == value] for name, values in metrics.items()})
            fresh = [items[self.new_items[items]] for items in relevant]
            rows = np.flatnonzero([len(items) for items in fresh])
            if len(rows):
                fresh = [fresh[row] for row in rows]
                new_items.add(_metrics(top[rows], fresh, ks))
                order = order[self.new_items[order]]
                among.add(_metrics(self._top(scores[rows], order, min(depth, len(order))), fresh, ks))
        result: dict[str, float | dict[str, float]] = {"users": len(self.users), **overall.result(), **lists.result()}
        if groups[False].count:
            result["known_users"] = {"users": groups[True].count, **groups[True].result()}
            result["new_users"] = {"users": groups[False].count, **groups[False].result()}
        if new_items.count:
            shares = {"share_of_lists": float(newly_listed / listed), "share_of_catalog": float(self.new_items.mean())}
            result["new_items"] = {"users": new_items.count, **shares, **new_items.result()}
            result["cold_items_only"] = {"users": among.count, "items": int(self.new_items.sum()), **among.result()}
        return result

    @staticmethod
    def _top(scores: np.ndarray, order: np.ndarray, depth: int) -> np.ndarray:
        """`[n, depth]` item indices, best first, -1 where only seen items are left."""
        values, places = tf.math.top_k(scores[:, order], depth)
        return np.where(np.isneginf(values.numpy()), -1, order[places.numpy()])


def _known(events: Events) -> Events:
    return events.known if events.known is not None else events.take(np.array([], np.int64))


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


def content_vectors(tables: ModelInputs) -> np.ndarray | None:
    """`[N, d]` unit vectors of the items' media, the same whatever model is asked; None without media."""
    parts = []
    for table in tables.items.values():
        values = np.asarray(table.matrix, np.float32)[table.rows[1:]]
        parts.append(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
    if not parts:
        return None
    joined = np.concatenate(parts, axis=1)
    return joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)
