"""The models that a run is held against: the same code with less to see."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mmtfrs.config.config import Config, check_baselines
from mmtfrs.data.events import Events
from mmtfrs.data.splits import Split
from mmtfrs.errors import RunError, TrainingError, WriteError
from mmtfrs.evaluation.ease import CONTENT_WEIGHTS, MAX_ITEMS, PENALTIES, EaseScorer, gram_matrix, inversion_seconds
from mmtfrs.evaluation.evaluate import evaluated
from mmtfrs.evaluation.item_knn import ItemKNNScorer
from mmtfrs.evaluation.ranking_task import RankingTask, content_vectors
from mmtfrs.evaluation.scorers import Scorer
from mmtfrs.model_inputs.inputs import ModelInputs
from mmtfrs.models.histories import Histories
from mmtfrs.models.run import load_own_run, load_weights, save_weights
from mmtfrs.models.run_folder import WEIGHTS, load_part, load_split, read_history, using
from mmtfrs.models.two_tower import TwoTower
from mmtfrs.training.fit import fit_to_best
from mmtfrs.utils.files import make_folder, write_json

_Value = TypeVar("_Value")

log = logging.getLogger("mmtfrs")

# What each may see. `id_only` is the plain two-tower of user and item ids; `bpr` the same as matrix factorisation; `no_media`
# adds the ids of the history and so is this model without media.
VARIANTS: dict[str, dict[str, dict]] = {
    "bpr": {
        "model": {"modalities": (), "history_length": 0, "score": "dot"},
        "loss": {"name": "bpr", "temperature": 1.0, "negatives": "auto"},
    },
    "id_only": {"model": {"modalities": (), "history_length": 0}},
    "no_media": {"model": {"modalities": ()}},
}
_INVERSIONS = 5  # of EASE, until its settings are the best ones
_SHORT = 60.0  # seconds that EASE may always take
FIXED = ("item_knn", "ease", "ease_media")  # nothing of these is trained by gradients


def _variant(name: str, reads_order: bool) -> dict[str, dict]:
    """A modality's name is that modality alone, in items and histories, without any id."""
    alone = {"model": {"modalities": (name,), "use_item_id": False, "use_user_id": False, "fusion": "concat"}}
    # What belongs to another task or to several modalities is left out everywhere.
    settings = VARIANTS.get(name, alone)
    encoder = "transformer" if reads_order and name == "no_media" else "bag"
    return {
        "model": {"missing": "null", "history_encoder": encoder, **settings["model"]},
        "loss": {"alignment": 0.0, "rating": 0.0, **settings.get("loss", {})},
    }


def train_baseline(
    name: str, model: TwoTower, split: Split, cache: Path | None = None, seconds: float = np.inf
) -> TwoTower | Scorer | None:
    """Trains one baseline with the settings, data and seed of a model.

    Args:
        name: a key of `VARIANTS`, or a modality.
        model: whose tables and config are used.
        split: the model's own.
        cache: folder that keeps the weights, so that the next call only loads them.
        seconds: that the model's own training took: EASE is left out where it would take longer, and more than a minute.

    Returns:
        The baseline, or None where there is nothing for it to work on: a modality that the catalog does not have, content of
        items without media, EASE of a catalog that is too large to invert, or not in the time.

    Raises:
        ConfigError: an unknown name.
    """
    check_baselines([name], model.data.modalities)
    if name in FIXED:
        return _fixed(name, model, split, seconds)
    settings = _variant(name, model.reads_order)
    modalities = settings["model"]["modalities"]
    if not set(modalities) <= set(model.data.modalities):
        return None
    config = model.config.replace(**settings)
    tables = _only(model.data, modalities)
    path = cache / f"{name}.npz" if cache else None
    if path is not None and path.exists():
        baseline = TwoTower(config, tables=tables)
        try:
            load_weights(baseline, path)
            return baseline
        except RunError as error:
            log.warning("%s It is trained again.", str(error).partition(" Train it")[0])
    try:
        baseline, _ = fit_to_best(TwoTower(config, tables=tables.on(split.train)), split)
    except TrainingError as error:
        raise TrainingError(f"baseline {name}: {error} Or leave it out of the baselines.") from None
    if path is not None:
        with _told():
            make_folder(path.parent)
            Config.write(config, path.with_suffix(".yaml"))
            save_weights(baseline, path)  # last: with them the baseline is done
    return baseline


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What is only kept for the next time: where it cannot be written, that is told, and what was measured counts."""
    try:
        yield
    except WriteError as error:
        log.warning("%s", error)


def _fixed(name: str, model: TwoTower, split: Split, seconds: float) -> Scorer | None:
    if name == "item_knn":
        content = content_vectors(model.data)
        return ItemKNNScorer(content) if content is not None and len(content) > 1 else None
    items = len(model.data.item_ids)
    if items > MAX_ITEMS:
        log.warning("%s is left out: the catalog has %d items, more than %d", name, items, MAX_ITEMS)
        return None
    wanted = _INVERSIONS * inversion_seconds(items)
    if wanted > max(_SHORT, seconds):
        log.warning("%s is left out: it would take about %.0f s, and the model was trained in %.0f", name, wanted, seconds)
        return None

    content = None
    if name == "ease_media":
        vectors = content_vectors(model.data)
        if vectors is None:
            return None
        content = vectors @ vectors.T

    def gram(events: Events) -> np.ndarray:
        return gram_matrix(Histories(model.data, events).lists, items)

    penalty, weight, known = 200.0, 10.0, gram(split.train)
    if len(split.validation):
        # The penalty, and the content's weight, are EASE's only settings: it gets the best ones, as the model does.
        metric = model.config.evaluation.monitor
        task = RankingTask(model.data, split.validation, model.repeats)

        def worth(penalty: float, weight: float = 0.0) -> float:
            scorer = EaseScorer(known, penalty, content if weight else None, weight)
            return task.evaluate(scorer, (int(metric.partition("@")[2]),))[metric]

        penalty = _peak(PENALTIES, worth)
        if content is not None:
            chosen = penalty
            weight = _peak(CONTENT_WEIGHTS, lambda each: worth(chosen, each))
    both = len(split.validation) and model.config.training.refit
    return EaseScorer(gram(split.known) if both else known, penalty, content, weight)


def _peak(values: Sequence[float], worth: Callable[[float], float]) -> float:
    """The best of some values that get worse to both sides of it, by climbing from the middle: each try inverts a matrix."""
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = worth(values[place]) if 0 <= place < len(values) else -np.inf
        return known[place]

    place = len(values) // 2
    while (best := max((place, place - 1, place + 1), key=at)) != place:
        place = best
    return values[place]


def _only(tables: ModelInputs, modalities: tuple[str, ...]) -> ModelInputs:
    def part(values: Mapping[str, _Value]) -> dict[str, _Value]:
        return {name: value for name, value in values.items() if name in modalities}

    return dataclasses.replace(
        tables,
        adapters=part(tables.adapters),
        items=part(tables.items),
        users=part(tables.users),
        encoders=part(tables.encoders),
    )


def evaluate_run(
    run: str | Path,
    part: str = "test",
    baselines: Sequence[str] | None = None,
    progress: bool = False,
    trust_code: bool = False,
) -> dict[str, dict]:
    """Evaluates a finished run beside popularity and its baselines, which are trained once and kept in `RUN/baselines`. What is
    measured is written down at once: the same call goes on where it was killed.

    Args:
        run: the run folder.
        part: `test` or `validation`.
        baselines: of `item_knn`, `ease`, `bpr`, `id_only`, `no_media` and the modalities; the config's if None.
        progress: say on standard error what is measured, and how long it took.
        trust_code: as `load_run`.

    Returns:
        As `mmtfrs.evaluate`.

    Raises:
        RunError: no finished run, or it has no events in that part.
        ConfigError: an unknown baseline.
    """
    with using(run):
        return _evaluate(Path(run), part, baselines, progress, trust_code)


def _evaluate(folder: Path, part: str, baselines: Sequence[str] | None, progress: bool, trust_code: bool) -> dict[str, dict]:
    model, split = load_own_run(folder, trust_code), load_split(folder)
    events, settings = load_part(folder, part), model.config.evaluation
    names = settings.baselines if baselines is None else baselines
    history = read_history(folder)
    spent = np.inf if history is None else sum(logs["seconds"] for logs in history)
    made = functools.partial(train_baseline, model=model, split=split, cache=folder / "baselines", seconds=spent)
    against = {name: functools.partial(made, name) for name in names}
    mark = hashlib.sha256((folder / WEIGHTS).read_bytes() + str(settings).encode()).hexdigest()
    kept = folder / "evaluation" / f"{part}.json"
    rows = _kept_rows(kept, mark)
    start = time.monotonic()
    for name, metrics in evaluated(model, events, against, done=rows):
        rows[name] = metrics
        with _told():
            make_folder(kept.parent)
            write_json(kept, {"mark": mark, "rows": rows, "sum": _sum(rows)})
        if progress:
            metric = f"recall@{20 if 20 in settings.ks else settings.ks[-1]}"
            print(f"{name}: {metric} {metrics[metric]:.4f}, {time.monotonic() - start:.0f} s", file=sys.stderr)
        start = time.monotonic()
    return {name: rows[name] for name in ("model", "popularity", "recent", *names) if name in rows}


def _kept_rows(path: Path, mark: str) -> dict[str, dict]:
    """What an evaluation of the same weights and settings has measured; nothing of a file that is not as it was written."""
    try:
        known = json.loads(path.read_bytes())
        return known["rows"] if known["mark"] == mark and known["sum"] == _sum(known["rows"]) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _sum(rows: dict[str, dict]) -> int:
    return zlib.crc32(json.dumps(rows).encode())
