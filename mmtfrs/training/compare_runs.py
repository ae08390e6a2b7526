"""Two finished runs held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtfrs.config.config import check_metric
from mmtfrs.errors import RunError
from mmtfrs.evaluation.ranking_task import RankingTask
from mmtfrs.evaluation.scorers import ModelScorer
from mmtfrs.evaluation.significance import Difference, paired_bootstrap
from mmtfrs.models.run import load_run
from mmtfrs.models.run_folder import load_part


def compare_runs(
    first: str | Path, second: str | Path, part: str = "test", metrics: Sequence[str] = (), trust_code: bool = False
) -> list[Difference]:
    """Whether the second run is better than the first: a paired bootstrap over the users of the part.

    Args:
        first, second: run folders, trained on the same events.
        part: `test` or `validation`.
        metrics: as `recall@20`; recall and NDCG at 20 if empty.
        trust_code: as `load_run`.

    Raises:
        RunError: a run is not finished, or their events are not the same.
    """
    metrics = tuple(metrics) or ("recall@20", "ndcg@20")
    for metric in metrics:
        check_metric(metric)
    parts = [load_part(run, part) for run in (first, second)]
    columns = ("user_ids", "item_ids", "timestamps")
    same = all(np.array_equal(getattr(parts[0], name), getattr(parts[1], name)) for name in columns)
    if not same:
        raise RunError(f"{first} and {second} have different events in their {part} part. Use the same log and split.")
    ks = sorted({int(metric.partition("@")[2]) for metric in metrics})
    values = []
    for run, events in zip((first, second), parts, strict=True):
        model = load_run(run, trust_code)
        collected: list[dict[str, np.ndarray]] = []
        RankingTask(model.data, events, model.repeats).evaluate(ModelScorer(model), ks, collected)
        values.append({name: np.concatenate([each[name] for each in collected]) for name in metrics})
    if len(values[0][metrics[0]]) != len(values[1][metrics[0]]):
        raise RunError(f"{first} and {second} have different catalogs, so users are not asked the same. Use the same items.")
    return [paired_bootstrap(name, values[0][name], values[1][name]) for name in metrics]
