"""`mmtfrs encoders`: which encoders there are, and fetching them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mmtfrs import encoders
from mmtfrs.cli.console import CommandLine, show
from mmtfrs.cli.options import Json
from mmtfrs.encoders import published
from mmtfrs.errors import EncoderError, nearest

app = CommandLine(no_args_is_help=True, help="Which encoders there are, and fetching them.")


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """Print every encoder that has a name: what it is, where it comes from, its license and size, and whether it is here."""
    rows = [
        {
            "name": name,
            "modality": each.modality,
            "what": each.what,
            "from": each.origin,
            "license": each.license,
            "megabytes": each.megabytes,
            "here": published.here(name),
        }
        for name, each in published.PUBLISHED.items()
    ]
    table = Table()
    for heading in rows[0]:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "license"))
    for row in rows:
        table.add_row(*(("no", "yes")[value] if isinstance(value, bool) else str(value) for value in row.values()))
    show({"encoders": rows, "folder": str(published.cache_folder())}, as_json, table)


@app.command("get")
def get_command(names: Annotated[list[str], typer.Argument(help="Of `mmtfrs encoders list`.")], as_json: Json = False) -> None:
    """Fetch encoders, so that later nothing needs a network."""
    for name in names:
        if name not in published.PUBLISHED:
            raise EncoderError(f"unknown encoder `{name}`.{nearest(name, published.PUBLISHED)} See `mmtfrs encoders list`.")
    places = {name: str(_get(name)) for name in names}
    show({"encoders": places}, as_json, "\n".join(f"{name}: {place}" for name, place in places.items()))


def _get(name: str) -> Path | str:
    """Where an encoder lies then."""
    found = published.PUBLISHED[name]
    if found.package:
        return published.get(name)
    encoders.load(found.modality, name)
    return "in the folder of TF Hub" if name == "use" else "in the folder of Keras"
