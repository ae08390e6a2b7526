"""What a trained model is worth when media go missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from mmtfrs.data.events import Events
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.scorers import ModelScorer
from mmtfrs.models.two_tower import TwoTower

SHARES = (0.0, 0.25, 0.5, 0.75)
ALL = "all media"


def missing_curve(
    model: TwoTower, events: Events, shares: Sequence[float] = SHARES, metric: str = "recall@20", seed: int = 0
) -> dict[str, list[float]]:
    """The metric after a share of the items' media was removed, of every modality at once and of each alone.

    Media are removed from the items as candidates and in histories, the same ones for a larger share as for a smaller; the
    model is not trained again.

    Args:
        model: trained.
        events: the validation or test part of a split.
        shares: of the media that are there.
        metric: `METRIC@K`.
        seed: of what is removed.

    Returns:
        `{"all media": [one per share], modality: [...], ...}`.
    """
    task = RankingTask(model.data, events, model.repeats)
    k = int(metric.partition("@")[2])
    groups = {ALL: model.data.modalities, **{name: (name,) for name in model.data.modalities}}
    curve: dict[str, list[float]] = {}
    for label, modalities in groups.items():
        curve[label] = []
        for share in shares:
            with without_media(model, modalities, share, seed):
                curve[label].append(task.evaluate(ModelScorer(model), (k,))[metric])
    return curve


@contextlib.contextmanager
def without_media(model: TwoTower, modalities: Sequence[str], share: float, seed: int = 0) -> Iterator[None]:
    """The model with a share of the items' media absent, and whole again afterwards."""
    kept = {name: model.device.items[name].rows.numpy() for name in modalities}
    try:
        for number, (name, rows) in enumerate(kept.items()):
            there = np.flatnonzero(rows)
            gone = np.random.default_rng([seed, number]).permutation(there)[: round(share * len(there))]
            left = rows.copy()
            left[gone] = 0
            model.device.items[name].rows.assign(left)
        yield
    finally:
        for name, rows in kept.items():
            model.device.items[name].rows.assign(rows)
