"""Evaluation over the whole catalog: every item is ranked for every user, seen items left out, nothing is sampled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.evaluation.metrics import ListMetrics, ranking_metrics
from mmtfrs.evaluation.scorers import Scorer
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.model_inputs.item_lists import ItemLists, Prefixes
from mmtfrs.models.histories import Histories
from mmtfrs.utils.prefetch import ahead

_SCORES = 1 << 25  # scores held at a time: 128 MiB
_EVENTS = 20_000  # that a rolling task asks for at most
_USERS = 256  # users at a time, who share the order in which ties fall


class RankingTask:
    """The users of a part of the log, what is relevant to each and what each has seen.

    Args:
        tables: the model's ids and counts.
        events: what is to be predicted.
        repeats: whether items that were taken before may be answered, and are asked for.

    Attributes:
        users: `[n] object`, who is asked for, once each; in a rolling task once per event.
        pasts: item rows that are known of each, oldest first.
        relevant: indices of the items that are to be found, sorted.
    """

    def __init__(self, tables: ModelInputs, events: Events, repeats: bool = False) -> None:
        self.tables = tables
        self.repeats = repeats
        self._events = events
        users, known, wanted = self._taken()
        size = len(tables.item_ids) + 1
        pairs = np.unique(_pairs(wanted, size))
        if not repeats:  # an item that was taken before cannot be recommended again, so it cannot be asked for either
            pairs = np.setdiff1d(pairs, _pairs(known, size), assume_unique=True)
        relevant = ItemLists.of_owners(pairs // size, pairs % size - 1, len(users))
        asked = np.flatnonzero(relevant.counts)
        if not len(asked):
            raise DataError("there is nothing to evaluate: no event of this part is on an item its user had not seen.")
        self.users, self.relevant = users[asked], relevant.take(asked)
        self.pasts: ItemLists | Prefixes = known.take(asked)
        self.new_items = tables.item_counts[1:] == 0
        self.content = content_vectors(tables)

    def rolling(self) -> RankingTask | None:
        """A question before each event, with all that its user took until then, also in this part: how a model that is sent
        histories is asked. None where what is known is not older than the part, or nobody comes twice. Of very many events
        some are drawn."""
        events, known = self._events, self._events.earlier
        if not len(known) or known.timestamps.max() > events.timestamps.min():
            return None
        users, before, wanted = self._taken()
        owners = np.concatenate([before.owners, wanted.owners])
        order = np.argsort(owners, kind="stable")
        whole = ItemLists.of_owners(owners[order], np.concatenate([before.items, wanted.items])[order], len(users))
        places = np.arange(len(wanted.items)) + before.starts[wanted.owners + 1]  # of the events in `whole`
        if not self.repeats:
            new = np.zeros(len(whole.items), bool)
            new[np.unique(_pairs(whole, len(self.tables.item_ids) + 1), return_index=True)[1]] = True
            places = places[new[places]]
        if len(places) == len(self.users):
            return None
        asked, owners = copy.copy(self), whole.owners[places]
        asked.users, asked.pasts = users[owners], whole.before(places)
        asked.relevant = ItemLists(whole.items[places] - 1, np.arange(len(places) + 1))
        return asked.sample(_EVENTS)

    def sample(self, count: int) -> RankingTask:
        """Of at most so many of its users, always the same ones."""
        if len(self.users) <= count:
            return self
        rows = np.sort(np.random.default_rng(0).permutation(len(self.users))[:count])
        some = copy.copy(self)
        some.users, some.relevant = self.users[rows], self.relevant.take(rows)
        some.pasts = self.pasts.some(rows) if isinstance(self.pasts, Prefixes) else self.pasts.take(rows)
        return some

    def _taken(self) -> tuple[np.ndarray, ItemLists, ItemLists]:
        """`(who is in the part [m], what is known of each, what each took in the part)`."""
        users = self._events.users.in_order().names
        before, during = (Histories(self.tables, part).pasts(users) for part in (self._events.earlier, self._events))
        return users, before, during

    def evaluate(self, scorer: Scorer, ks: Sequence[int], per_user: list | None = None) -> dict:
        """Metrics of one scorer; see `evaluate`. A list takes `{metric@k: [n]}` of each user, in chunks."""
        items = len(self.new_items)
        chunk = max(1, min(_USERS, _SCORES // items))
        overall, new_items, among = _Means(), _Means(), _Means()
        groups = {True: _Means(), False: _Means()}
        lists = ListMetrics(ks, self.tables.item_counts[1:], self.content)
        newly_listed = listed = 0
        depth = min(max(ks), items)
        for start, relevant, pasts, scores in self._scored(scorer, chunk):
            # Exact ties fall in random orders, the same ones for every scorer: one that cannot tell items apart is at
            # chance, not at the mercy of the catalog's order.
            order = np.random.default_rng(start).permutation(items)
            if not self.repeats:
                scores[pasts.owners, pasts.items - 1] = -np.inf
            top = self._top(scores, order, depth)
            lists.update(top)
            listed += int((top >= 0).sum())
            newly_listed += int(self.new_items[top[top >= 0]].sum())
            metrics = _metrics(top, relevant, ks)
            overall.add(metrics)
            if per_user is not None:
                per_user.append(metrics)
            known = pasts.counts > 0
            for value, group in groups.items():
                group.add({name: values[known == value] for name, values in metrics.items()})
            fresh = relevant.kept(self.new_items[relevant.items])
            rows = np.flatnonzero(fresh.counts)
            if len(rows):
                fresh = fresh.take(rows)
                new_items.add(_metrics(top[rows], fresh, ks))
                columns = np.flatnonzero(self.new_items)
                order = np.searchsorted(columns, order[self.new_items[order]])
                shown = np.stack([scores[row].take(columns) for row in rows])
                best = self._top(shown, order, min(depth, len(columns)))
                among.add(_metrics(np.where(best < 0, -1, columns[best]), fresh, ks))
        result: dict[str, float | dict[str, float]] = {"users": len(self.users), **overall.result(), **lists.result()}
        if groups[False].count:
            result["known_users"] = {"users": groups[True].count, **groups[True].result()}
            result["new_users"] = {"users": groups[False].count, **groups[False].result()}
        if new_items.count:
            shares = {"share_of_lists": float(newly_listed / listed), "share_of_catalog": float(self.new_items.mean())}
            result["new_items"] = {"users": new_items.count, **shares, **new_items.result()}
            result["cold_items_only"] = {"users": among.count, "items": int(self.new_items.sum()), **among.result()}
        return result

    def _scored(self, scorer: Scorer, chunk: int) -> Iterator[tuple[int, ItemLists, ItemLists, np.ndarray]]:
        """`(number of the first user, what is relevant, what is known, scores [n, N])` of a few users at a time; the next ones
        are scored meanwhile."""
        starts = range(0, len(self.users), chunk)
        parts = [np.arange(start, min(start + chunk, len(self.users))) for start in starts]

        def scores(rows: np.ndarray) -> np.ndarray:
            return np.asarray(scorer.scores(self.users[rows], self.pasts.take(rows)), np.float32)

        with ThreadPoolExecutor(1) as pool:
            for rows, found in ahead(pool, scores, ((rows, (rows,)) for rows in parts), limit=2):
                yield int(rows[0]), self.relevant.take(rows), self.pasts.take(rows), found

    @staticmethod
    def _top(scores: np.ndarray, order: np.ndarray, depth: int) -> np.ndarray:
        """`[n, depth]` item indices, best first, items of one score in this order, -1 where only seen items are left."""
        best, places = (each.numpy() for each in tf.math.top_k(scores, min(depth + 1, len(order))))
        places = np.where(np.isneginf(best), -1, places)
        # Only where scores are the same does the order matter: to look at all of them in it is a copy of them all.
        tied = np.flatnonzero(((best[:, 1:] == best[:, :-1]) & ~np.isneginf(best[:, 1:])).any(axis=1))
        if len(tied):
            best, found = (each.numpy() for each in tf.math.top_k(np.take(scores[tied], order, axis=1), depth))
            places[tied, :depth] = np.where(np.isneginf(best), -1, order[found])
        return places[:, :depth]


def _pairs(lists: ItemLists, size: int) -> np.ndarray:
    """`[E] int64`: one number for each owner and item below `size`."""
    return lists.owners.astype(np.int64) * size + lists.items


def _metrics(top: np.ndarray, relevant: ItemLists, ks: Sequence[int]) -> dict[str, np.ndarray]:
    size = int(max(top.max(), relevant.items.max())) + 2
    asked = np.arange(len(top))[:, None] * size + top
    return ranking_metrics(np.isin(asked, _pairs(relevant, size)) & (top >= 0), relevant.counts, ks)


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
