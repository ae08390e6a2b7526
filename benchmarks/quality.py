"""Quality of every method over several seeds, beside strong baselines.

Choices are made on the validation part: `fusions`, `modalities`, `methods`, `encoders`, `augment`. The default and its
baselines are then asked on the test part: `baselines` (with what is left when media go missing), `content` (asked by media),
`newcomers`, `new_items`. Every finished training is written down at once; the same command goes on after a kill and repeats
nothing.

    python -m benchmarks.quality [--seeds 5] [--data digits,demo,log,public] [--tables fusions,baselines]
        [--out benchmarks/results]

`public` are the logs in `benchmarks/_datasets.py`; what else a data set can be is said there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mmtfrs
from benchmarks._classes import by_class
from benchmarks._datasets import PUBLIC, Dataset, held_out_items, load, newcomers
from mmtfrs.config import schema as settings
from mmtfrs.evaluation.evaluate import evaluate
from mmtfrs.evaluation.missing_modalities import SHARES, missing_curve
from mmtfrs.evaluation.significance import mean_interval
from mmtfrs.training.baselines import train_baseline
from mmtfrs.training.fit import fit, fit_to_best

BASELINES = ("item_knn", "ease", "ease_media", "bpr", "id_only", "no_media", "image", "text", "audio")
METHODS = {
    **{f"score: {name}": {"model": {"score": name}} for name in settings.SCORES if name != "cosine"},
    "score: dot, temperature 1": {"model": {"score": "dot"}, "loss": {"temperature": 1.0}},
    "loss: bpr": {"loss": {"name": "bpr"}},
    "loss: hinge": {"loss": {"name": "hinge", "temperature": 1.0}},
    **{f"negatives: {name}": {"loss": {"negatives": name}} for name in ("in_batch", "mixed")},
    "item graph": {"model": {"graph": {"neighbors": 10}}},
    "missing: generator": {"model": {"missing": "generator"}},
    "alignment 0.1": {"loss": {"alignment": 0.1}},
    "no modality dropout": {"model": {"modality_dropout": 0.0}},
    "embedding_dim 128, temperature 0.15": {"model": {"embedding_dim": 128}, "loss": {"temperature": 0.15}},
    "coattention, embedding_dim 128, feature_dim 256, temperature 0.15": {
        "model": {"fusion": "coattention", "embedding_dim": 128, "feature_dim": 256},
        "loss": {"temperature": 0.15},
    },
    "histories: past only": {"model": {"history": "past"}},
}
ENCODERS = (
    ("image", "offline"),
    ("text", "offline"),
    ("audio", "offline"),
    ("audio", "mfcc"),
    ("audio", "lstm"),
    ("text", "tfidf"),
)
VIEWS = 4


def train(data: Dataset, seed: int, part: str, **sections) -> dict[str, float]:
    """One training, its metrics and its seconds."""
    start = time.perf_counter()
    config = data.config.replace(seed=seed, **sections)
    model = mmtfrs.TwoTower(config, data.catalog, data.features, data.split.train)
    fit(model, data.split)
    seconds = time.perf_counter() - start
    return _row(evaluate(model, getattr(data.split, part), ks=(5, 20))["model"]) | {"seconds": seconds}


def baselines(data: Dataset, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """The default and everything beside it, on the test part."""
    config = data.config.replace(seed=seed)
    model = mmtfrs.TwoTower(config, data.catalog, data.features, data.split.train)
    start = time.perf_counter()
    model, _ = fit_to_best(model, data.split)
    spent = {"model": time.perf_counter() - start}
    against = {}
    for name in BASELINES:
        start = time.perf_counter()
        baseline = train_baseline(name, model, data.split)
        if baseline is not None:
            against[name] = baseline
            spent[name] = time.perf_counter() - start
    for name, metrics in evaluate(model, data.split.test, against, ks=(5, 20)).items():
        yield name, _row(metrics) | {"seconds": spent.get(name, 0.0)}
    whole = model.data.modalities and len(data.split.train) > 10 * len(data.catalog)
    for name, values in missing_curve(model, data.split.test).items() if whole else ():
        for share, value in zip(SHARES, values, strict=True):
            yield f"{share:.0%} of {name} removed", {"recall@20": value, "of all": value / values[0]}


def new_users(data: Dataset, seed: int) -> dict[str, float]:
    """Users who were not in training, with three events of history, against those who were."""
    split, asked = newcomers(data.split, seed=seed)
    model = mmtfrs.TwoTower(data.config.replace(seed=seed), data.catalog, data.features, split.train)
    model, _ = fit_to_best(model, split)
    known = evaluate(model, split.test, ks=(20,))["model"]["recall@20"]
    new = evaluate(model, asked, ks=(20,))["model"]["recall@20"]
    return {"known users recall@20": known, "new users recall@20": new, "ratio": new / known}


def content(data: Dataset, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """The default asked by media, on the test part."""
    model = mmtfrs.TwoTower(data.config.replace(seed=seed), data.catalog, data.features, data.split.train)
    model, _ = fit_to_best(model, data.split)
    yield from evaluate(model, data.split.test, ks=(20,))["model"].get("content_queries", {}).items()
    yield from ((f"{name}, by class", metrics) for name, metrics in by_class(model, data, seed))


def augment(data: Dataset, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """With and without augmented views of the items' media: known items, new ones, and how often an item is found by its own
    medium."""
    split, asked = held_out_items(data, seed=seed)
    for views in (0, VIEWS):
        config = data.config.replace(seed=seed, extraction={"augment": {"views": views}})
        model = mmtfrs.TwoTower(config, data.catalog, data.features, data.split.train)
        fit(model, data.split)
        metrics = evaluate(model, data.split.validation, ks=(20,))["model"]
        rest = mmtfrs.TwoTower(config, data.catalog, data.features, split.train)
        fit(rest, split)
        new = evaluate(rest, asked, ks=(20,))["model"]["new_items"]["recall@20"]
        found = {f"{name} itself@1": row["itself@1"] for name, row in metrics["content_queries"].items() if "itself@1" in row}
        yield f"{views} views", {"recall@20": metrics["recall@20"], "new items recall@20": new, **found}


def new_items(data: Dataset, seed: int) -> dict[str, float]:
    """A tenth of the items held out of training: ranked among themselves, and how often they are listed at all."""
    split, asked = held_out_items(data, seed=seed)
    model = mmtfrs.TwoTower(data.config.replace(seed=seed), data.catalog, data.features, split.train)
    fit(model, split)
    found = evaluate(model, asked, ks=(5, 20))["model"]
    among, fresh = found["cold_items_only"], found["new_items"]
    return {
        "recall@5": among["recall@5"],
        "chance": 5 / among["items"],
        "recall@20 among all": fresh["recall@20"],
        "share of lists": fresh["share_of_lists"],
        "share of catalog": fresh["share_of_catalog"],
    }


def _row(metrics: dict) -> dict[str, float]:
    among = metrics.get("cold_items_only", {})
    late = among.get("recall@5") if among.get("items", 0) >= 20 else None  # of five items, five are always found
    return {"recall@20": metrics["recall@20"], "ndcg@20": metrics["ndcg@20"]} | ({} if late is None else {"late@5": late})


class Results:
    """Finished trainings, one JSON line each."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines if line.endswith("}")]

    def have(self, **key) -> bool:
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, **row) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def table(self, data: str, table: str) -> str:
        """Markdown: a row per method, mean and 95 % interval over the seeds."""
        rows = [row for row in self.rows if row["data"] == data and row["table"] == table and row["metrics"]]
        names = list(dict.fromkeys(row["method"] for row in rows))
        metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
        lines = [f"| {data}: {table} | seeds | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
        for method in names:
            mine = [row["metrics"] for row in rows if row["method"] == method]
            cells = [_cell([each[name] for each in mine if name in each], name) for name in metrics]
            lines.append(f"| {method} | {len(mine)} | " + " | ".join(cells) + " |")
        return "\n".join([*lines, *self._ratios(data, table, rows)])

    @staticmethod
    def _ratios(data: str, table: str, rows: list[dict]) -> list[str]:
        """The default over each of its rivals, paired within a seed."""
        first = {row["seed"]: row["metrics"] for row in rows if row["method"] == "model"}
        if len(first) < 2:
            return []
        lines = ["", f"| {data}: model over ... | recall@20 | ndcg@20 |", "|---|---|---|"]
        for method in dict.fromkeys(row["method"] for row in rows if row["metrics"].get("ndcg@20")):
            mine = {row["seed"]: row["metrics"] for row in rows if row["method"] == method}
            if method != "model":
                pairs = [(first[seed], mine[seed]) for seed in first if seed in mine]
                cells = [
                    _cell([ours[name] / max(theirs[name], 1e-9) for ours, theirs in pairs], name)
                    for name in ("recall@20", "ndcg@20")
                ]
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
        return lines


def _cell(values: list[float], name: str) -> str:
    if not values:
        return ""
    mean, half = mean_interval(values)
    if name == "seconds":
        return f"{mean:.0f}"
    return f"{mean:.3f}" if half != half else f"{mean:.3f} ± {half:.3f}"


def plan(table: str, data: str, folder: Path) -> dict[str, Callable[[Dataset, int], dict[str, float]]]:
    """The methods of a table that is chosen from on the validation part."""
    if table == "encoders":
        others = {f"{modality}: {name}": load(data, folder, 0, modality, name) for modality, name in ENCODERS}
        return {"default": lambda usual, seed: train(usual, seed, "validation")} | {
            name: lambda _, seed, other=other: train(other, seed, "validation") for name, other in others.items()
        }
    if table == "fusions":
        sections = {name: {"model": {"fusion": name}} for name in settings.FUSIONS}
    elif table == "modalities":
        there = list(load(data, folder).features.items)
        sets = [names for count in range(1, len(there) + 1) for names in itertools.combinations(there, count)]
        sections = {" + ".join(names): {"model": {"modalities": names}} for names in sets}
    else:
        sections = {"default": {}, **METHODS}
    return {
        name: lambda data, seed, chosen=chosen: train(data, seed, "validation", **chosen) for name, chosen in sections.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default="digits,demo,log,public")
    parser.add_argument("--tables", default="baselines,content,newcomers,new_items,fusions,modalities,methods,encoders,augment")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "quality.jsonl")
    tables = options.tables.split(",")
    names = [name for part in options.data.split(",") for name in (PUBLIC if part == "public" else (part,))]
    for name in names:
        if load(name, options.out) is None:
            print(f"{name} is not here: left out")
            continue
        for table in tables:
            if table not in ("baselines", "methods") and not load(name, options.out).features.items:
                continue  # ids alone have no media to choose from
            for seed in range(options.seeds):
                views = VIEWS if table == "augment" else 0
                _measure(results, load(name, options.out, seed, views=views), name, table, seed)
            print(results.table(name, table), flush=True)
    text = "\n\n".join(results.table(name, table) for name in names for table in tables if results.have(data=name, table=table))
    (options.out / "quality.md").write_text(text + "\n", encoding="utf-8")


def _measure(results: Results, data: Dataset, name: str, table: str, seed: int) -> None:
    key = {"data": name, "table": table, "seed": seed}
    if table in ("baselines", "content", "augment"):
        if not results.have(**key, method="end"):
            for method, metrics in {"baselines": baselines, "content": content, "augment": augment}[table](data, seed):
                results.add(**key, method=method, metrics=metrics)
            results.add(**key, method="end", metrics={})
    elif table in ("newcomers", "new_items"):
        if not results.have(**key):
            measure = {"newcomers": new_users, "new_items": new_items}[table]
            results.add(**key, method="default", metrics=measure(data, seed))
    else:
        for method, run in plan(table, name, results.path.parent).items():
            if not results.have(**key, method=method):
                results.add(**key, method=method, metrics=run(data, seed))


if __name__ == "__main__":
    main()
