"""What a search found: `report.html` and `trials.parquet`. `python -m tuning.report DIR` writes them at any time."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet
import typer

from mmtfrs.cli.console import CommandLine, run_app
from mmtfrs.cli.options import Debug
from mmtfrs.errors import TuningError
from mmtfrs.utils.files import replacing
from tuning import require
from tuning.job import Job
from tuning.process import read_json
from tuning.trials import Row, Trials, short

app = CommandLine()

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px}td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left}
img{max-width:100%}.best td{background:#fff4d6}.failed{color:#a33}"""


def write_report(folder: str | Path) -> Path:
    """Writes both files and returns the page.

    Raises:
        TuningError: not a search folder, or nothing was completed in it.
        WriteError: a file cannot be written.
    """
    require()
    folder = Path(folder)
    job = Job.read(folder)
    from tuning import pictures  # these load Matplotlib and scikit-learn
    from tuning.importance import importance

    trials = Trials(folder, job.goal())
    rows, leaders = trials.rows(), trials.leaders()
    if not leaders:
        raise TuningError(f"{folder}: no trial is completed yet, so there is nothing to report.")
    space = job.space()
    with replacing(folder / "trials.parquet") as file:
        pyarrow.parquet.write_table(trials_table(rows, list(space.parts)), file)
    shares = importance(space, leaders)
    shown = {
        "Learning curves": pictures.inline(pictures.curves(trials)),
        "Parallel coordinates": pictures.inline(pictures.parallel(space, leaders, job.objective)),
    }
    if shares:
        shown["What mattered"] = pictures.inline(pictures.bars(shares))
    path = folder / "report.html"
    with replacing(path) as file:
        file.write(_page(job, list(space.parts), rows, leaders, shown, _outcome(folder)).encode())
    return path


def trials_table(rows: list[Row], names: list[str]) -> pa.Table:
    """A row per trial: id, status, score, seconds, epochs, note, each setting, each validation metric."""
    metrics = sorted({name for row in rows for name in row.metrics})
    columns: dict[str, list] = {
        "trial": [row.id for row in rows],
        "status": [row.status for row in rows],
        "score": [row.score for row in rows],
        "seconds": [row.seconds for row in rows],
        "epochs": [row.epochs for row in rows],
        "note": [row.note for row in rows],
    }
    for name in names:
        values = [row.values.get(name) for row in rows]
        same = len({type(value) for value in values}) == 1 and not isinstance(values[0], list)
        columns[name] = values if same else [json.dumps(value) for value in values]
    columns |= {f"val_{name}": [row.metrics.get(name) for row in rows] for name in metrics}
    return pa.table(columns)


def _outcome(folder: Path) -> str:
    path = folder / "outcome.json"
    if not path.exists():
        return ""
    found = read_json(path)
    rows = [[part, found[part]["winner"]["text"], found[part]["default"]["text"]] for part in ("validation", "test")]
    words = "is better than" if found["better"] else "is within the seeds' interval of, or below,"
    return "\n".join(
        [
            f"<h2>The winner, trained again over {found['seeds']} seeds</h2>",
            f"<p>On the validation part trial {found['trial']} {words} the default.",
            "The test part was measured once, after the choice.</p>",
            _table(["part", "winner", "default"], rows),
        ]
    )


def _page(job: Job, names: list[str], rows: list[Row], leaders: list[Row], shown: dict, outcome: str) -> str:
    board = [
        [
            row.id,
            f"{row.score:.4f}",
            str(row.epochs),
            f"{row.seconds:.0f}",
            row.note,
            *(short(row.values.get(name)) for name in names),
        ]
        for row in leaders
    ]
    failed = [[row.id, row.note] for row in rows if row.status == "failed"]
    parts = [
        f"<h1>{html.escape(job.objective)}: {leaders[0].score:.4f}</h1>",
        f"<p>{len(leaders)} of {len(rows)} trials completed, {len(failed)} failed; method {job.method}, "
        f"{sum(row.seconds for row in rows) / 60:.0f} minutes of training.",
        "Settings of the best: <code>best_config.yaml</code>.</p>",
        outcome,
        *(f'<h2>{title}</h2><img alt="{title}" src="{source}">' for title, source in shown.items()),
        "<h2>Leaderboard</h2>",
        _table(["trial", job.objective, "epochs", "seconds", "", *(name.split(".")[-1] for name in names)], board, "best"),
    ]
    if failed:
        parts += ["<h2>Failed</h2>", _table(["trial", "why"], failed)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>mmtfrs search</title><style>{_STYLE}</style>'
        + "\n".join(parts)
        + "</html>\n"
    )


def _table(heads: list[str], rows: list[list[str]], first: str = "") -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    lines = []
    for number, row in enumerate(rows):
        kind = f' class="{first}"' if first and number == 0 else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(str(text))}</td>" for text in row) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Search folder; it may still be running.")], debug: Debug = False
) -> None:
    """Write report.html and trials.parquet of a search."""
    print(write_report(folder))


if __name__ == "__main__":
    run_app(app)
