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


class ValidationMetrics(keras.callbacks.Callback):
    """Adds `val_recall@20` and the like to the epoch's logs, for EarlyStopping, checkpoints and TensorBoard.

    Put it before the callbacks that read the logs.

    Args:
        events: the validation part of a split.
        ks: list lengths.
    """

    def __init__(self, events: Events, ks: tuple[int, ...] = (20,)) -> None:
        super().__init__()
        self.events = events
        self.ks = ks
        self._questions: RankingTask | None = None

    def questions(self, model: TwoTower) -> RankingTask:
        """What is asked at the end of every epoch."""
        if self._questions is None:
            self._questions = RankingTask(model.data, self.events, model.repeats)
            if model.config.evaluation.history == "rolling":
                self._questions = self._questions.rolling() or self._questions
        return self._questions

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        questions = self.questions(self.model)
        with averaged(self.model):
            fit_blend(self.model, questions)
            metrics = questions.ask(ModelScorer(self.model), self.ks)
        if logs is not None:
            logs.update({f"val_{name}@{k}": metrics[f"{name}@{k}"] for name in RANKING for k in self.ks})
