"""One trial, in a process of its own, which `tuning.forks` starts.

The folder holds `spec.json`: the settings, where the data is, how many epochs, and of which earlier trial this one is the
continuation. The trial writes `history.jsonl`, a line per epoch, and at its end `result.json`. A trial that was killed begins
anew, so that a search ends the same way whether it was interrupted or not.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
from tensorboard.plugins.hparams import api as hparams

from mmtfrs._keras import keras, tf
from mmtfrs.config.config import Config
from mmtfrs.evaluation.evaluate import evaluate
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.training.fit import fit
from mmtfrs.utils.files import write_json
from tuning.search_data import SearchData


class Watch(keras.callbacks.Callback):
    """Writes what every epoch gave, and ends a trial that is worse than most were at the same epoch.

    The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2): a trial stops whose best value so far is below
    the median of what finished trials had reached on average by that epoch; here of their best.

    Args:
        path: of the lines.
        metric: name in the logs.
        bar: the value that is to be reached by each epoch; none where it is empty.
        started: Unix time at which the process was started.
    """

    def __init__(self, path: Path, metric: str, bar: list[float | None], started: float) -> None:
        super().__init__()
        self.path, self.metric, self.bar, self.started = path, metric, bar, started
        self.first_step: float | None = None
        self.pruned = False
        self._best = -np.inf

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.first_step is None:
            self.first_step = time.time() - self.started

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch + 1, "time": time.time() - self.started, **values}) + "\n")
        self._best = max(self._best, values.get(self.metric, np.inf))
        bar = self.bar[epoch] if epoch < len(self.bar) else None
        if bar is not None and self._best < bar:
            self.pruned = self.model.stop_training = True


def run(folder: Path) -> dict:
    """Trains what `spec.json` says, and returns what `result.json` holds.

    Metrics are those of the validation part at the best epoch; `loss` is the last epoch's, `seconds` and `parameters` are the
    training's and the model's. With `test: true` in the spec the test part is measured too, beside popularity.
    """
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    data = SearchData.load(folder / spec["data"])
    config = Config(**spec["config"])
    for name in ("training", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if spec["continues"]:
        shutil.copytree(folder.parent / spec["continues"] / "training", folder / "training")
    lines = folder / "history.jsonl"
    lines.unlink(missing_ok=True)
    keras.utils.set_random_seed(config.seed)
    model = TwoTower(config, tables=data.tables(config))
    watch = Watch(lines, f"val_{config.evaluation.monitor}", spec["bar"], spec["started"])
    start = time.monotonic()
    history = fit(model, data.split, folder, more=[watch])
    seconds = time.monotonic() - start
    metrics = _numbers(evaluate(model, data.split.validation)["model"])
    metrics |= {"loss": history[-1]["loss"], "seconds": seconds, "parameters": float(model.count_params())}
    result = {
        "metrics": metrics,
        "epochs": len(history),
        "pruned": watch.pruned,
        "first_step": watch.first_step,
        "peak_mib": _peak(),
    }
    if spec.get("test"):
        result["test"] = {name: _numbers(values) for name, values in evaluate(model, data.split.test).items()}
    _write_hparams(folder / "logs" / "hparams", spec["values"], metrics, config)
    if not spec["keep"]:
        shutil.rmtree(folder / "training", ignore_errors=True)
    write_json(folder / "result.json", result)
    return result


def _numbers(metrics: dict) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def _write_hparams(folder: Path, values: dict, metrics: dict[str, float], config: Config) -> None:
    with tf.summary.create_file_writer(str(folder)).as_default():
        hparams.hparams(
            {name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in values.items()}
        )
        tf.summary.scalar(config.evaluation.monitor, metrics[config.evaluation.monitor], step=0)


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
