"""The command line: each command is one call of the library, its result as text or, with --json, as one JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtfrs._version import stack
from mmtfrs.cli.config import app as config_app
from mmtfrs.cli.console import CommandLine, keep, note, run_app, show
from mmtfrs.cli.encoders import app as encoders_app
from mmtfrs.cli.export import app as export_app
from mmtfrs.cli.loading import check_out, extract_features, read_items, read_settings, read_split
from mmtfrs.cli.options import (
    AudioEncoder,
    ConfigFile,
    Debug,
    EventsFile,
    ImageEncoder,
    Items,
    Json,
    OwnFeatures,
    Part,
    RunFolder,
    Seed,
    Strict,
    TextEncoder,
    TrustCode,
    UsersFile,
)
from mmtfrs.config.config import check_baselines, check_metric
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.data.media_table import MediaTable
from mmtfrs.data.users import Users
from mmtfrs.models.run_folder import check_run, training_in, using
from mmtfrs.utils.files import write_json
from mmtfrs.utils.text import split_ids
from serving.loadtest import loadtest
from serving.server import serve
from tuning.search import main as tune

app = CommandLine(
    no_args_is_help=True, help="Multimodal two-tower recommendation: from raw images, texts and audio to a served model."
)


@app.callback()
def _root(debug: Debug = False) -> None:
    pass  # commands read it: see `mmtfrs.cli.console`


@app.command("demo-data")
def demo_data(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    seed: Annotated[int, typer.Option(help="Fixes every byte of every file.")] = 42,
    as_json: Json = False,
) -> None:
    """Write the demo catalog: images, texts, audio and a log of events with planted tastes."""
    from mmtfrs.data.demo import write_demo

    counts = write_demo(folder, seed)
    show({"folder": str(folder), **counts}, as_json, f"{folder}: " + ", ".join(f"{v} {k}" for k, v in counts.items()))


@app.command()
def check(items: Items, events: EventsFile, users: UsersFile = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Validate items, events, users and every media file; print every problem."""
    from mmtfrs.features.media_check import check_media

    settings = read_settings(config)
    catalog, of_items = Catalog.scan(items, settings)
    log, of_events = Events.scan(events, settings, catalog if len(catalog) else None)
    problems = [*of_items, *of_events]
    tables: list[MediaTable] = [catalog]
    if users is not None:
        people, of_users = Users.scan(users, settings)
        problems += of_users
        tables.append(people)
    for table in tables:
        problems += check_media(table, settings, progress=not as_json)
    errors = sum(problem.severity == "error" for problem in problems)
    summary = f"{len(catalog)} items, {len(log)} events: {errors} errors, {len(problems) - errors} warnings"
    counts = {table.section: {name: table.count(name) for name in table.modalities} for table in tables}
    document = {
        "items": len(catalog),
        "events": len(log),
        "media": counts,
        "errors": errors,
        "warnings": len(problems) - errors,
        "problems": [problem.as_dict() for problem in problems],
    }
    show(document, as_json, "\n".join([*map(str, problems), summary]))
    if errors:
        raise typer.Exit(1)


@app.command(goes_on=True)
def extract(
    items: Items,
    store: Annotated[Path, typer.Option("--store", help="Folder of the feature store.")],
    users: UsersFile = None,
    config: ConfigFile = None,
    image_encoder: ImageEncoder = None,
    text_encoder: TextEncoder = None,
    audio_encoder: AudioEncoder = None,
    own: OwnFeatures = None,
    seed: Seed = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Encode every medium that the store does not have yet."""
    settings = read_settings(config, seed, image_encoder, text_encoder, audio_encoder, own)
    catalog, people = read_items(items, users, settings)
    features = extract_features(catalog, people, settings, store, strict, not as_json)
    counts = {name: int(rows.present.sum()) for name, rows in features.items.items()}
    document = {
        "store": str(store),
        "encoded": features.encoded,
        "items": counts,
        "users": {name: int(rows.present.sum()) for name, rows in features.users.items()},
        "rejects": [vars(reject) for reject in features.rejects],
    }
    held = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no media"
    show(document, as_json, f"{store}: {features.encoded} media encoded now; the catalog has {held}")


@app.command(goes_on=True)
def train(
    items: Items,
    events: EventsFile,
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same command goes on after a kill.")],
    users: UsersFile = None,
    config: ConfigFile = None,
    split: Annotated[str | None, typer.Option(help="time, user, random or none; overrides the config.")] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Feature store; `features` beside the run.")] = None,
    image_encoder: ImageEncoder = None,
    text_encoder: TextEncoder = None,
    audio_encoder: AudioEncoder = None,
    own: OwnFeatures = None,
    seed: Seed = None,
    strict: Strict = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Extract what is missing and train a run to its best epoch."""
    settings = read_settings(config, seed, image_encoder, text_encoder, audio_encoder, own)
    check_out(out, training_in)
    if split is not None:
        settings = settings.replace(data={"split": split})
    catalog, people = read_items(items, users, settings)
    parts = read_split(events, settings, catalog)
    store = store or out.parent / "features"
    features = extract_features(catalog, people, settings, store, strict, not as_json)
    from mmtfrs.training.train import train as train_run

    model, history = train_run(settings, catalog, features, parts, out, overwrite, True, store)
    best = max((logs[metric] for logs in history if (metric := f"val_{settings.evaluation.monitor}") in logs), default=None)
    best = best if len(parts.validation) else None
    document = {
        "run": str(out),
        "epochs": len(history),
        "train": len(parts.train),
        "validation": len(parts.validation),
        "test": len(parts.test),
        f"val_{settings.evaluation.monitor}": best,
        "modalities": list(model.data.modalities),
        "history_encoder": "transformer" if model.reads_order else "bag",
        "rejects": len(features.rejects),
    }
    measured = f", best validation {settings.evaluation.monitor} {best:.4f}" if best is not None else ""
    show(document, as_json, f"{out}: trained on {len(parts.train)} events for {len(history)} epochs{measured}")


@app.command()
def evaluate(
    run: RunFolder,
    split: Part = "test",
    baselines: Annotated[
        str | None, typer.Option(help="Comma-separated of ease, bpr, item_knn, id_only, no_media and modalities; or none.")
    ] = None,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Rank the whole catalog for every user of a part; print a table, write RUN/metrics.json and .png."""
    facts = _check_part(split, run)
    names = None if baselines is None else [name for name in split_ids(baselines) if name != "none"]
    check_baselines(names or (), facts["modalities"])
    note(f"evaluating {run} on its {split} part ...")
    from mmtfrs.evaluation.plots import metrics_picture
    from mmtfrs.evaluation.results_table import content_table, group_table, overall_table, rating_line, rolling_line
    from mmtfrs.training.baselines import evaluate_run

    results = evaluate_run(run, split, names, progress=not as_json, trust_code=trust_code)
    document = {"run": str(run), "split": split, "results": results}
    ks = sorted(int(name.partition("@")[2]) for name in results["model"] if name.startswith("recall@"))
    k, small = (20 if 20 in ks else ks[-1]), (5 if 5 in ks else ks[0])
    show(
        document,
        as_json,
        overall_table(results, k),
        rolling_line(results, k),
        group_table(results, k, small),
        content_table(results),
        rating_line(results),
    )
    keep(
        lambda: write_json(run / "metrics.json", document),
        lambda: metrics_picture(results, run / "metrics.png", (f"recall@{k}", f"ndcg@{k}")),
    )


@app.command()
def missing(
    run: RunFolder,
    split: Part = "test",
    metric: Annotated[str, typer.Option(help="METRIC@K")] = "recall@20",
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Say what is left when media go missing; write RUN/missing.json and RUN/missing.png."""
    check_metric(metric)
    _check_part(split, run)
    from mmtfrs.evaluation.missing_modalities import SHARES, missing_curve
    from mmtfrs.evaluation.plots import curve_picture
    from mmtfrs.evaluation.results_table import missing_table
    from mmtfrs.models.run import load_run
    from mmtfrs.models.run_folder import load_part

    with using(run):
        curve = missing_curve(load_run(run, trust_code), load_part(run, split), SHARES, metric)
        document = {"run": str(run), "split": split, "metric": metric, "shares": SHARES, "curve": curve}
        show(document, as_json, missing_table(curve, SHARES, metric))
        keep(
            lambda: write_json(run / "missing.json", document),
            lambda: curve_picture(curve, SHARES, run / "missing.png", metric),
        )


@app.command()
def compare(
    first: RunFolder,
    second: Annotated[Path, typer.Argument(help="Run folder, trained on the same events.")],
    split: Part = "test",
    metrics: Annotated[str, typer.Option(help="Comma-separated, as recall@20,ndcg@20.")] = "recall@20,ndcg@20",
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Say whether the second run is better than the first: a paired bootstrap over users."""
    wanted = split_ids(metrics)
    for metric in wanted:
        check_metric(metric)
    _check_part(split, first, second)
    from mmtfrs.evaluation.results_table import difference_table
    from mmtfrs.training.compare_runs import compare_runs

    found = compare_runs(first, second, split, wanted, trust_code)
    document = {"first": str(first), "second": str(second), "split": split, "differences": [vars(each) for each in found]}
    show(document, as_json, difference_table(found, str(first), str(second)))


@app.command()
def version(as_json: Json = False) -> None:
    """Print the versions of mmtfrs, Python and the packages that it stands on."""
    found = stack()
    show(found, as_json, "\n".join(f"{name:<26} {number or 'not installed'}" for name, number in found.items()))


def _check_part(split: str, *runs: Path) -> dict:
    """What the first run's `run.json` says; all of them are finished and have events in the part."""
    if split not in ("test", "validation"):
        raise typer.BadParameter(f"must be test or validation. Received: {split}", param_hint="--split")
    first, *_ = [check_run(run, split) for run in runs]
    return first


app.registered_commands += export_app.registered_commands + config_app.registered_commands
app.add_typer(encoders_app, name="encoders")
app.command("tune", goes_on=True)(tune)
app.command("serve")(serve)
app.command("loadtest")(loadtest)


def main() -> None:
    """Entry point of `mmtfrs`."""
    run_app(app)
