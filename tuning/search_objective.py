"""What a search looks for: a metric of the validation part, by its name."""

from __future__ import annotations

import dataclasses
from typing import Any

from mmtfrs.config.config import Config, check_metric
from mmtfrs.errors import ConfigError, TuningError, nearest

# Metrics without a list length; all METRIC@K are to be as high as can be.
DIRECTIONS = {"loss": "min", "rating_mae": "min", "rating_rmse": "min", "seconds": "min", "parameters": "min"}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A metric and its direction, `max` or `min`."""

    name: str
    direction: str

    @classmethod
    def named(cls, name: str, config: Config) -> Objective:
        """Knows the direction from the name. Raises `TuningError` for a metric that no trial has."""
        if name in DIRECTIONS:
            if name.startswith("rating_") and not config.loss.rating:
                raise TuningError(f"the objective `{name}` needs the rating task: set `loss.rating` above 0.")
            return cls(name, DIRECTIONS[name])
        try:
            check_metric(name)
        except ConfigError as error:
            known = ", ".join(DIRECTIONS)
            hint = nearest(name, DIRECTIONS)
            raise TuningError(f"no trial measures the objective `{name}`.{hint} {error} Or one of {known}.") from None
        return cls(name, "max")


def trial_config(config: Config, objective: Objective) -> Config:
    """Settings of a trial: its best epoch is the one that is best by the objective, and it ends with that."""
    changes: dict[str, Any] = {"refit": False, "finetune": {"blocks": 0}}
    if "@" not in objective.name:
        return config.replace(training=changes)
    ks = tuple(sorted({*config.evaluation.ks, int(objective.name.partition("@")[2])}))
    return config.replace(training=changes, evaluation={"monitor": objective.name, "ks": ks})
