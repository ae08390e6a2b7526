"""A Keras callback that measures the whole catalog at the end of every epoch."""

from __future__ import annotations

from mmtfrs._keras import keras
from mmtfrs.config.schema import RANKING
from mmtfrs.data.events import Events
from mmtfrs.evaluation.blend import fit_blend
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.scorers import ModelScorer
from mmtfrs.models.averaging import averaged
from mmtfrs.models.two_tower import TwoTower

_SCORES, _USERS = 1 << 31, 2000  # scores made at the end of an epoch, some seconds' worth, unless these are fewer users


class ValidationMetrics(keras.callbacks.Callback):
    """Adds `val_recall@20` and the like to the epoch's logs, for EarlyStopping, checkpoints and TensorBoard.

    Put it before the callbacks that read the logs.

    Args:
        events: the validation part of a split.
        ks: list lengths.
        model: what is measured, where that is a part of the model that is fitted.

    Example:
        >>> history = model.fit(
        ...     model.dataset(split.train), epochs=2, verbose=0, callbacks=[ValidationMetrics(split.validation, ks=(5,))]
        ... )
        >>> len(history.history["val_recall@5"])
        2
    """

    def __init__(self, events: Events, ks: tuple[int, ...] = (20,), model: TwoTower | None = None) -> None:
        super().__init__()
        self.events = events
        self.ks = ks
        self._measured = model
        self._task: RankingTask | None = None

    def task(self, model: TwoTower) -> RankingTask:
        """What is asked at the end of every epoch; of very many users of a very large catalog some are drawn."""
        if self._task is None:
            self._task = RankingTask(model.data, self.events, model.repeats)
            if model.config.evaluation.history == "rolling":
                self._task = self._task.rolling() or self._task
            self._task = self._task.sample(max(_USERS, _SCORES // len(model.data.item_ids)))
        return self._task

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        model = self._measured or self.model
        task = self.task(model)
        with averaged(self.model):
            fit_blend(model, task)
            metrics = task.evaluate(ModelScorer(model), self.ks)
        if logs is not None:
            logs.update({f"val_{name}@{k}": metrics[f"{name}@{k}"] for name in RANKING for k in self.ks})
