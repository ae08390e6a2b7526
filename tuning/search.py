"""Search for good settings: `mmtfrs tune --items F --events F --trials N --out DIR`.

The same command goes on after a kill. Watch it in the terminal, in DIR/report.html, or with `tensorboard --logdir DIR/trials`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from mmtfrs.cli.console import CommandLine, keep, note, run_app, show
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
    Seed,
    Strict,
    TextEncoder,
    UsersFile,
)
from mmtfrs.config.config import Config
from mmtfrs.errors import TuningError
from tuning import require
from tuning.distributed import LocalWorkers
from tuning.job import Job, check, searching_in
from tuning.live import View
from tuning.search_data import SearchData
from tuning.trials import Trials

app = CommandLine()


def search(
    config: Config,
    data: SearchData,
    folder: str | Path,
    trials: int = 30,
    method: str = "bayesian",
    objective: str = "recall@20",
    hours: float | None = None,
    minutes: float | None = None,
    workers: int = 0,
) -> Trials:
    """Runs trials until as many have ended, or the hours are over; goes on where it was interrupted.

    Args:
        config: the settings to start from; its `tuning` section changes the space.
        data: catalog, features and split log.
        folder: where the search lives.
        trials: how many in all; a search that has ended goes on when it gets more.
        method: hyperband, bayesian or random.
        objective: a metric of the validation part.
        hours: of training in all.
        minutes: of one trial, which fails when they are over.
        workers: local processes that share the trials; 0 runs them one by one from this process. As the chief of a cluster
            (KERASTUNER_TUNER_ID) it serves the workers that come.

    Raises:
        TuningError: see `Job`; or ten trials failed in a row; or another process searches in the folder.
        WriteError: the folder cannot be written.
    """
    require()
    from tuning.chief import serve  # these load KerasTuner, and with it TensorFlow
    from tuning.tuner import BudgetSpent, ProcessTuner

    folder = Path(folder)
    job = Job.of(config, data, method, objective, trials)
    chief = "KERASTUNER_ORACLE_IP" in os.environ
    with _claimed(job, folder, data), View(trials) as view, LocalWorkers(folder, workers, minutes) as local:
        tuner = ProcessTuner(job.oracle(), job.space(), job.goal(), folder, hours, minutes, view)
        try:
            if workers or chief:
                serve(tuner, local.address if workers else None, local.check)
            else:
                tuner.search()
        except BudgetSpent:
            note(f"time budget of {hours:g} hours exhausted")
        except OSError as error:
            raise TuningError(f"{folder}: the search cannot be written ({error}). The same command goes on.") from None
        except RuntimeError as error:
            failed = [row for row in tuner.trials.rows() if row.status == "failed"]
            if "consecutive failures" not in str(error):
                raise
            raise TuningError(
                f"{folder}: the search has stopped, trial after trial failed. The last: {failed[-1].note}"
            ) from None
        view(tuner.trials, now=True)
    return tuner.trials


@contextlib.contextmanager
def _claimed(job: Job, folder: Path, data: SearchData) -> Iterator[None]:
    with searching_in(folder):
        job.claim_folder(folder, data)
        yield


@app.command(goes_on=True)
def main(
    items: Items,
    events: EventsFile,
    out: Annotated[Path, typer.Option("--out", help="Search folder; the same command goes on after a kill.")],
    trials: Annotated[int, typer.Option(help="How many in all; Hyperband's rounds count.")] = 30,
    method: Annotated[str, typer.Option(help="hyperband, bayesian or random.")] = "bayesian",
    objective: Annotated[str, typer.Option(help="METRIC@K of the validation part, loss, seconds or parameters.")] = "recall@20",
    users: UsersFile = None,
    config: ConfigFile = None,
    store: Annotated[Path | None, typer.Option("--store", help="Feature store; `features` beside the search.")] = None,
    image_encoder: ImageEncoder = None,
    text_encoder: TextEncoder = None,
    audio_encoder: AudioEncoder = None,
    own: OwnFeatures = None,
    seed: Seed = None,
    strict: Strict = False,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Of training in all; then it stops.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Of one trial; then it fails.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Local processes that share the trials.")] = 0,
    confirm_seeds: Annotated[
        int, typer.Option(min=0, help="Seeds over which winner and default are trained again, and meet the test part once.")
    ] = 3,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search for good settings, confirm the winner, write best_config.yaml, report.html and trials.parquet."""
    require()
    settings = read_settings(config, seed, image_encoder, text_encoder, audio_encoder, own)
    check_out(out, searching_in)
    catalog, people = read_items(items, users, settings)
    check(settings, catalog.modalities, method, objective, trials)  # before what takes long
    split = read_split(events, settings, catalog)
    features = extract_features(catalog, people, settings, store or out.parent / "features", strict, not as_json)
    found = search(settings, SearchData(catalog, features, split), out, trials, method, objective, hours, minutes, workers)
    from tuning.outcome import BEST, best_config, confirm, write_best  # these load SciPy, Matplotlib and scikit-learn
    from tuning.report import write_report

    best = out / BEST
    best_config(out, found)
    with searching_in(out):
        outcome = confirm(out, found, confirm_seeds) if confirm_seeds else None
    lead = found.leaders()[0]
    rows = found.rows()
    failed = {row.id: row.note for row in rows if row.status == "failed"}
    document = {
        "out": str(out),
        "trials": len(rows),
        "failed": failed,
        "completed": len(found.leaders()),
        "best": lead.id,
        objective: lead.score,
        "config": str(best),
        "outcome": outcome,
    }
    lines = [f"trial {name} failed: {why}" for name, why in failed.items()]
    lines += [f"{len(found.leaders())} of {len(rows)} trials completed; best {lead.id}: {objective} {lead.score:.4f}"]
    if outcome is not None:
        lines += [
            f"{part} {objective}, {confirm_seeds} seeds: winner {outcome[part]['winner']['text']}, "
            f"default {outcome[part]['default']['text']}"
            for part in ("validation", "test")
        ]
    show(document, as_json, *lines, f"{best} is for `mmtfrs train --config {best}`; see {out / 'report.html'}")
    keep(lambda: write_best(out, found), lambda: write_report(out))
    if again := sum(row.again for row in rows):
        note(f"{again} trials failed for what is around them: the same command tries them again")
        raise typer.Exit(1)


if __name__ == "__main__":
    run_app(app)
