"""What command lines have in common: options, printed results, and a user's mistake told in one line."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import typer
from rich.console import Console

from mmtfrs.errors import Error


def split_ids(text: str) -> list[str]:
    """`A,B` -> `["A", "B"]`."""
    return [part for part in text.split(",") if part]


def print_recommendations(found: list[tuple[str, float]], as_json: bool) -> None:
    """One line per item, or one JSON document."""
    document = {"recommendations": [{"item_id": item, "score": score} for item, score in found]}
    lines = [f"{rank:>3}  {score:8.4f}  {item}" for rank, (item, score) in enumerate(found, start=1)]
    show(document, as_json, "\n".join(lines))


def warn(problems) -> None:
    """Notes every problem."""
    for problem in problems:
        note(str(problem))


def note(text: str) -> None:
    """A line on standard error, so that standard output stays for results."""
    print(text, file=sys.stderr)


def show(document: dict[str, Any], as_json: bool, *texts) -> None:
    """Prints one JSON document, or texts and tables."""
    if as_json:
        print(json.dumps(document))
        return
    width = None if sys.stdout.isatty() else 140
    for text in texts:
        if isinstance(text, str):
            print(text)
        elif text is not None:
            Console(width=width).print(text)


def run_app(command: typer.Typer) -> None:
    """Runs a command line; a user's mistake ends with its message and exit code 1, wrong usage with 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mmtfrs").setLevel(logging.INFO)
    try:
        command()
    except Error as error:
        if "--debug" in sys.argv:
            raise
        if "--json" in sys.argv:
            print(json.dumps({"error": str(error)}))
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
