"""A model beside others on a part of the log, by everything that is measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from mmtfrs.data.events import Events
from mmtfrs.evaluation.content_queries import content_queries
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.ratings import rating_errors
from mmtfrs.evaluation.scorers import ModelScorer, PopularityScorer, Scorer
from mmtfrs.models.two_tower import TwoTower


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
