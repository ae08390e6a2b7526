"""The commands around an exported model: write it, follow a changing catalog, choose its index, ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmtfrs import encoders
from mmtfrs.cli.console import CommandLine, keep, note, note_unknown, print_recommendations, show
from mmtfrs.cli.loading import check_encoders, read_items
from mmtfrs.cli.options import (
    Allow,
    AudioEncoder,
    Boost,
    ConfigFile,
    Count,
    Diversity,
    Exclude,
    History,
    ImageEncoder,
    IndexKind,
    Items,
    Json,
    Keep,
    MinScore,
    QueryAudio,
    QueryFeatures,
    QueryImage,
    QueryText,
    Recall,
    Repeats,
    RunFolder,
    Strict,
    TextEncoder,
    TrustCode,
    User,
)
from mmtfrs.config.config import Config
from mmtfrs.exporting.own_features import OwnFeatures
from mmtfrs.exporting.request import Query, results
from mmtfrs.exporting.versions import carried_model, facts, newest_version
from mmtfrs.models.run_folder import check_run, using
from mmtfrs.utils.files import check_writable, make_folder, write_json
from mmtfrs.utils.text import split_ids

app = CommandLine()


@app.command()
def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="saved_models/NAME; the next free version is written there.")],
    recall: Recall = None,
    index: IndexKind = None,
    keep: Keep = None,
    image_encoder: ImageEncoder = None,
    text_encoder: TextEncoder = None,
    audio_encoder: AudioEncoder = None,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Write the next version of a SavedModel that TF Serving runs."""
    settings = _given(recall=recall, index=index, keep=keep)
    Config(export=settings)
    given = {name: path for name, path in (("image", image_encoder), ("text", text_encoder), ("audio", audio_encoder)) if path}
    for name, path in given.items():
        encoders.check_name(name, path)
    check_run(run)
    check_writable(folder)
    note(f"exporting {run} ...")
    from mmtfrs.exporting.export import export as export_model
    from mmtfrs.models.run import load_run

    model = load_run(run, trust_code)
    model.config = model.config.replace(export=settings)
    step = model.config.extraction.step
    model.keep_encoders({name: encoders.load(name, path, step(name)) for name, path in given.items()})
    written = export_model(model, folder)
    document = {"path": str(written), "version": int(written.name), "items": len(model.data.item_ids)}
    show(document, as_json, f"{written}: version {written.name}, {len(model.data.item_ids)} items")


@app.command()
def refresh(
    folder: Annotated[Path, typer.Argument(help="saved_models/NAME")],
    items: Items,
    store: Annotated[Path, typer.Option("--store", help="Feature store: what it has is not encoded again.")],
    config: ConfigFile = None,
    keep: Keep = None,
    strict: Strict = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Write the next version with items added, changed and removed, without training; --items is the whole catalog."""
    carried = carried_model(newest_version(folder)) / "config.yaml"
    check_writable(folder)
    settings = Config.read(config if config is not None else carried)
    settings = settings.replace(export=_given(keep=keep))
    catalog, _ = read_items(items, None, settings)
    check_encoders(catalog, None, settings)
    from mmtfrs.exporting.refresh import refresh as refresh_model

    done = refresh_model(folder, catalog, store, settings, strict, progress=not as_json, trust_code=trust_code)
    document = {
        "path": str(done.path),
        "version": int(done.path.name),
        "items": len(catalog),
        "added": done.added,
        "removed": done.removed,
        "encoded": done.encoded,
    }
    text = f"{done.path}: version {done.path.name}, {len(catalog)} items: {done.added} added, {done.removed} removed"
    show(document, as_json, f"{text}; {done.encoded} media encoded now")


@app.command("index-report")
def index_report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of index.json and index.png; RUN otherwise.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results per query.")] = 100,
    recalls: Annotated[str, typer.Option(help="Comma-separated.")] = "0.8,0.9,0.95,0.99",
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Measure recall against latency of every index on a run's catalog; print a table, write RUN/index.json and .png."""
    try:
        wanted = [float(part) for part in split_ids(recalls)]
    except ValueError:
        wanted = []
    if not wanted or not all(0 < each <= 1 for each in wanted):
        raise typer.BadParameter(f"must be numbers above 0, up to 1. Received: {recalls}", param_hint="--recalls")
    check_run(run)
    from mmtfrs.exporting.export import sample_queries
    from mmtfrs.index.measure import index_picture, index_table, measure_indexes
    from mmtfrs.models.run import load_run

    place = out or run
    with using(run):
        model = load_run(run, trust_code)
        measured = measure_indexes(model.candidate_embeddings(), sample_queries(model), k, wanted, note=note)
        document = {"run": str(run), "items": len(model.data.item_ids), "k": k, "measured": [vars(each) for each in measured]}
        show(document, as_json, index_table(measured, f"{len(model.data.item_ids)} items, {k} results per query"))
        keep(
            lambda: make_folder(place),
            lambda: write_json(place / "index.json", document),
            lambda: index_picture(measured, place / "index.png"),
        )


@app.command()
def recommend(
    folder: Annotated[Path, typer.Argument(help="saved_models/NAME")],
    user: User = "",
    history: History = "",
    text: QueryText = "",
    image: QueryImage = "",
    audio: QueryAudio = "",
    k: Count = 10,
    exclude: Exclude = "",
    allow: Allow = "",
    boost: Boost = "",
    diversity: Diversity = 0.0,
    min_score: MinScore = None,
    repeats: Repeats = False,
    features: QueryFeatures = None,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Ask an exported model in this process."""
    path = newest_version(folder)
    query = Query.parse(
        user=user,
        history=history,
        text=text,
        image=image,
        audio=audio,
        exclude=exclude,
        allow=allow,
        boost=boost,
        diversity=diversity,
        min_score=min_score,
        repeats=repeats,
        features=features,
    )
    signature, inputs = OwnFeatures.of_facts(facts(path), trust_code).requests([query])[0]
    note(f"loading {path} ...")
    from mmtfrs.exporting.loaded import LoadedModel

    model = LoadedModel(path)
    answer = model.ask(signature, inputs)
    note_unknown(user, answer)
    found = results(answer, 0, k)
    print_recommendations(found, model.titles([item for item, _ in found]), as_json, query.described())


def _given(**settings: Any) -> dict[str, Any]:
    """What was given on the command line."""
    return {name: value for name, value in settings.items() if value is not None}
