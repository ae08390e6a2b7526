"""How far predicted ratings are from the real ones."""

from __future__ import annotations

import numpy as np

from mmtfrs.data.events import Events
from mmtfrs.errors import DataError
from mmtfrs.models.histories import Histories
from mmtfrs.models.two_tower import TwoTower


def rating_errors(model: TwoTower, events: Events) -> dict[str, float]:
    """Mean absolute and root mean squared error over the events on known items, and those of always saying the mean.

    Args:
        model: with the rating task.
        events: with ratings; what their users had taken before is in `events.known`.

    Raises:
        DataError: the model has no such task, or the events no ratings.
    """
    head, ratings = model.rating, events.ratings
    if head is None or ratings is None:
        raise DataError("rating errors are those of a model with the rating task, on events with ratings.")
    items = model.data.item_rows(events.items)
    kept = np.flatnonzero(items > 0)
    users = events.users.take(kept)
    predicted = model.predict_ratings(users, Histories(model.data, events.earlier).pasts(users), items[kept])
    errors = predicted - ratings[kept]
    flat = float(head.mean.numpy()) - ratings[kept]
    return {
        "rating_mae": float(np.abs(errors).mean()),
        "rating_rmse": float(np.sqrt((errors**2).mean())),
        "rating_rmse_of_mean": float(np.sqrt((flat**2).mean())),
    }
