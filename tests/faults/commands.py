"""The commands that faults are tried on, each with what it needs and a way to tell what came out of it."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.processes import Jobs

_ITEMS, _USERS, _EVENTS = 60, 160, 12
_CONFIG = {
    "encoders": dict.fromkeys(("image", "text", "audio"), "offline"),
    "extraction": {"batch_size": 8},
    "model": {"embedding_dim": 8, "hidden": [8], "feature_dim": 16},
    "training": {"epochs": 5, "patience": 3, "batch_size": 128, "learning_rate": 0.01, "refit": True},
    "evaluation": {"monitor": "recall@5", "ks": [5, 10], "baselines": ["ease", "id_only", "text"]},
    "tuning": {"space": {"model.dropout": {"min": 0.0, "max": 0.5}, "training.learning_rate": [0.003, 0.01]}},
}
_TUNED = {
    "encoders": {"image": "network.h5", "text": "offline"},
    "model": {"modalities": ["image", "text"], "history_encoder": "bag"},
    "training": {"epochs": 2, "finetune": {"blocks": 1, "epochs": 3, "batch_size": 64, "learning_rate": 0.001}},
}


_SEARCHED = {"model": {"modalities": ["text"], "history_encoder": "bag"}, "training": {"epochs": 3}}


@dataclasses.dataclass(frozen=True)
class Command:
    """Attributes:

    name: of the command.
    arguments: of its command line, by the folder of the inputs and its own.
    tell: prints what came out, `{name: value}` as JSON, by the same folders.
    needs: folders of the inputs that it writes to or builds on.
    module: has the `app`.
    """

    name: str
    arguments: Callable[[Path, Path], list[str]]
    tell: Callable[[str, str], None]
    needs: tuple[str, ...] = ()
    module: str = "mmtfrs.cli.app"


def make_inputs(folder: Path, jobs: Jobs, commands: Iterable[Command]) -> Path:
    """A small catalog, a log whose order tells what comes next; and what the commands need of a feature store, a run and an
    export."""
    needed = {name for command in commands for name in command.needs}
    steps: list[tuple[str, str | Callable, list[str]]] = [("files", _write_files, [str(folder)])]
    for name, make in (("store", _extract), ("run", _train), ("shop", _export)):
        if needed & {"store": {"store"}, "run": {"run", "shop"}, "shop": {"shop"}}[name]:
            steps.append((name, "mmtfrs.cli.app", make(folder, folder)))
    for name, target, arguments in steps:
        if not (folder / f"{name}.made").exists():
            job = jobs(target, *arguments)
            assert job.wait() == 0, job.stderr
            (folder / f"{name}.made").touch()
    return folder


def _write_files(folder: str) -> None:
    from mmtfrs import Config
    from mmtfrs._keras import keras
    from mmtfrs.data.demo import write_demo

    place, draw = Path(folder), random.Random(0)
    write_demo(place)
    for name, count in (("items", _ITEMS), ("users", 40)):
        with (place / f"{name}.csv").open(newline="") as file:
            rows = list(csv.reader(file))[: count + 1]
        with (place / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        if name == "items":
            with (place / "fewer.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows[:-9])
    lines = ["user_id,item_id,timestamp"]
    for user in range(_USERS):
        item, second = draw.randrange(_ITEMS), draw.randrange(50_000)
        for _ in range(_EVENTS):
            item, second = (item + draw.choice((1, 2, 5))) % _ITEMS, second + draw.randrange(1, 5_000)
            lines.append(f"user-{user:04d},item-{item:04d},{second}")
    (place / "events.csv").write_text("\n".join(lines) + "\n")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, 2, activation="relu", name="one_conv"), keras.layers.GlobalAveragePooling2D()]
    layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), *layers, keras.layers.Dense(8, name="two_dense")]
    keras.Sequential(layers).save(place / "network.h5")
    config = Config(**_CONFIG)
    config.write(place / "config.yaml")
    encoders = {**_TUNED["encoders"], "image": str(place / "network.h5")}
    config.replace(**_SEARCHED).write(place / "searched.yaml")
    config.replace(**{**_TUNED, "encoders": encoders}).write(place / "tuned.yaml")


def _data(inputs: Path, *names: str) -> list[str]:
    return [part for name in names for part in (f"--{name}", str(inputs / f"{name}.csv"))]


def _extract(inputs: Path, folder: Path) -> list[str]:
    return ["extract", *_data(inputs, "items", "users"), "--config", f"{inputs}/config.yaml", "--store", f"{folder}/store"]


def _train(inputs: Path, folder: Path, config: str = "config") -> list[str]:
    out = ["--config", f"{inputs}/{config}.yaml", "--store", f"{folder}/store", "--out", f"{folder}/run"]
    return ["train", *_data(inputs, "items", "events", "users"), *out]


def _finetune(inputs: Path, folder: Path) -> list[str]:
    return _train(inputs, folder, "tuned")


def _evaluate(_: Path, folder: Path) -> list[str]:
    return ["evaluate", f"{folder}/run"]


def _export(_: Path, folder: Path) -> list[str]:
    return ["export", f"{folder}/run", f"{folder}/shop"]


def _refresh(inputs: Path, folder: Path) -> list[str]:
    return ["refresh", f"{folder}/shop", "--items", f"{inputs}/fewer.csv", "--store", f"{folder}/store", "--keep", "1"]


def _search(inputs: Path, folder: Path) -> list[str]:
    more = ["--trials", "4", "--confirm-seeds", "1", "--objective", "recall@5", "--config", f"{inputs}/searched.yaml"]
    return [*_data(inputs, "items", "events", "users"), *more, "--store", f"{folder}/store", "--out", f"{folder}/search"]


def _print(**told: object) -> None:
    print(json.dumps({name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _arrays(*paths: Path) -> dict[str, str]:
    import numpy as np

    found = {}
    for path in paths:
        with np.load(path) as arrays:
            found |= {f"{path.name}: {name}": _hash(arrays[name].tobytes()) for name in arrays.files}
    return found


def tell_store(inputs: str, folder: str) -> None:
    """The rows of each modality; and that nothing was left to encode."""
    import mmtfrs

    place = Path(inputs)
    catalog, users = mmtfrs.Catalog.read(place / "items.csv"), mmtfrs.Users.read(place / "users.csv")
    config = mmtfrs.Config.read(place / "config.yaml")
    features = mmtfrs.extract(catalog, config, f"{folder}/store", users=users, progress=False)
    sides = {"items": features.items, "users": features.users}
    rows = {
        f"{side} {name}": _hash(each.matrix[each.rows].tobytes())
        for side, found in sides.items()
        for name, each in found.items()
    }
    _print(encoded=features.encoded, **rows)


def tell_run(_: str, folder: str) -> None:
    """Weights, tables and logs of the epochs."""
    run = Path(folder, "run")
    history = [{**logs, "seconds": 0} for logs in json.loads((run / "history.json").read_text())]
    tables = {str(path.relative_to(run)): _hash(path.read_bytes()) for path in (run / "tables").rglob("*") if path.is_file()}
    _print(history=history, **tables, **_arrays(run / "weights.npz"))


def tell_evaluation(_: str, folder: str) -> None:
    """Metrics, and the weights of the baselines."""
    run = Path(folder, "run")
    document = json.loads((run / "metrics.json").read_text())
    _print(results=document["results"], **_arrays(*sorted((run / "baselines").glob("*.npz"))))


def tell_export(inputs: str, folder: str) -> None:
    """What the newest version answers."""
    from mmtfrs.exporting.loaded import LoadedModel
    from mmtfrs.exporting.request import Query

    model, texts = LoadedModel(f"{folder}/shop"), _texts(Path(inputs))
    asked = [Query(user=f"user-{number:04d}") for number in range(0, _USERS, 8)] + [Query(text=text) for text in texts]
    _print(answers=[model.recommend(query) for query in asked])


def _texts(inputs: Path) -> list[str]:
    with (inputs / "users.csv").open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)][:20]


def tell_search(_: str, folder: str) -> None:
    """The trials, the winner, and what it is worth."""
    from tuning.job import Job
    from tuning.trials import Trials

    place = Path(folder, "search")
    rows = {
        row.id: [row.status, row.values, {**row.metrics, "seconds": 0}] for row in Trials(place, Job.read(place).goal()).rows()
    }
    outcome = json.loads((place / "outcome.json").read_text())
    _print(**rows, best=(place / "best_config.yaml").read_text(), outcome=outcome)


COMMANDS = {
    each.name: each
    for each in (
        Command("extract", _extract, tell_store),
        Command("train", _train, tell_run, ("store",)),
        Command("finetune", _finetune, tell_run, ("store",)),
        Command("evaluate", _evaluate, tell_evaluation, ("run",)),
        Command("export", _export, tell_export, ("run",)),
        Command("refresh", _refresh, tell_export, ("store", "shop")),
        Command("search", _search, tell_search, ("store",), "tuning.search"),
    )
}
