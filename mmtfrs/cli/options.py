"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Items = Annotated[Path, typer.Option("--items", help="Items file: CSV, TSV, JSONL or Parquet.")]
EventsFile = Annotated[Path, typer.Option("--events", help="Events file.")]
UsersFile = Annotated[Path | None, typer.Option("--users", help="Users file, if users have media of their own.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings as YAML; defaults otherwise.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Fixes the run; overrides the config.")]
ImageEncoder = Annotated[str | None, typer.Option(help="A name, a path or `offline`; overrides the config.")]
TextEncoder = Annotated[str | None, typer.Option(help="A name, a path or `offline`; overrides the config.")]
AudioEncoder = Annotated[str | None, typer.Option(help="A name, a path or `offline`; overrides the config.")]
# A model behind a server.
Target = Annotated[str, typer.Option(help="HOST:PORT of the server.")]
ModelName = Annotated[str, typer.Option(help="The model's name there.")]
# What is asked of a model, in this process or behind a server.
User = Annotated[str, typer.Option(help="User id.")]
History = Annotated[str, typer.Option(help="Item ids, oldest first, comma-separated.")]
QueryText = Annotated[str, typer.Option(help="What is looked for, in words.")]
QueryImage = Annotated[str, typer.Option(help="An image file.")]
QueryAudio = Annotated[str, typer.Option(help="An audio file.")]
QueryFeatures = Annotated[
    list[str] | None,
    typer.Option("--features", help="NAME=FILE.npy: one vector, of what is not encoded in the graph; repeatable."),
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Import and run the code that the run, export or search names.")]
ItemId = Annotated[str, typer.Argument(help="Item id.")]
Count = Annotated[int, typer.Option("-k", min=1, help="How many.")]
Exclude = Annotated[str, typer.Option(help="Item ids to leave out, comma-separated.")]
Allow = Annotated[str, typer.Option(help="attribute=value that answers must have, comma-separated.")]
Boost = Annotated[str, typer.Option(help="attribute=value:NUMBER that is added to the scores of such items, comma-separated.")]
Diversity = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="MMR trade-off: 0 ranks by score alone, 1 by difference alone.")
]
MinScore = Annotated[float | None, typer.Option("--min-score", help="The score below which the list ends.")]
Repeats = Annotated[bool, typer.Option("--repeats", help="Answer what the user took as well.")]
Recall = Annotated[float | None, typer.Option(min=0.01, max=1.0, help="Of an approximate index; overrides the config.")]
IndexKind = Annotated[str | None, typer.Option("--index", help="auto, exact, partitions, scan or scann; overrides the config.")]
Keep = Annotated[int | None, typer.Option(min=0, help="Newest versions to keep, 0 for all; overrides the config.")]
OwnFeatures = Annotated[list[str] | None, typer.Option("--features", help="NAME=FILE.npy: features of your own; repeatable.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at media that cannot be decoded.")]
RunFolder = Annotated[Path, typer.Argument(help="Run folder.")]
Part = Annotated[str, typer.Option("--split", help="Which part: test or validation.")]
