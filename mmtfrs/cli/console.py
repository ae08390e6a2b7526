"""What command lines have in common: options, printed results, and errors printed in one line."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType

from mmtfrs.cli.import_faults import import_fault
from mmtfrs.cli.stops import AGAIN, GOES_ON, advise, stopped, stopping
from mmtfrs.data.problems import Problem
from mmtfrs.errors import Error, WriteError
from mmtfrs.utils.files import FULL, write_error

log = logging.getLogger("mmtfrs")

_said: set[str] = set()  # by the command that runs: its "document", of which it prints one, whatever happens then; an "error"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def print_recommendations(found: list[tuple[str, float]], titles: list[str], as_json: bool, asked: str = "") -> None:
    """What was asked and one line per item, or one JSON document.

    Args:
        found: `(id, score)`, best first.
        titles: of the same items; "" where there is none.
        as_json: whether the document is printed instead of the lines.
        asked: what the list is for, in words; its line is left out if empty.
    """
    pairs = list(zip(found, titles, strict=True))
    document = {"recommendations": [{"item_id": item, "score": score, "title": title} for (item, score), title in pairs]}
    width = max((cell_len(item) for item, _ in found), default=0)
    lines = [
        f"{rank:>3}  {score:8.4f}  {item}{' ' * (width - cell_len(item))}  {title}".rstrip()
        for rank, ((item, score), title) in enumerate(pairs, start=1)
    ]
    show(document, as_json, "\n".join([asked] * bool(asked) + (lines or ["nothing found"])))


def note_unknown(user: str, answer: Mapping[str, np.ndarray]) -> None:
    """Says so where an answer is for a user whom the model does not know: a typo would get a list like anybody's."""
    if user and "known" in answer and not answer["known"][0]:
        note(f"user {user} is not known to this model: the list is that of a new user")


def warn(problems: Iterable[Problem]) -> None:
    """Notes every problem."""
    for problem in problems:
        note(str(problem))


def note(text: str) -> None:
    """A line on standard error, so that standard output stays for results."""
    print(text, file=sys.stderr)


def show(document: dict[str, Any], as_json: bool, *texts: RenderableType | None) -> None:
    """Prints one JSON document, or texts and tables; before what is written down of it, which may fail."""
    if as_json:
        print(json.dumps(document), flush=True)
        _said.add("document")
        return
    width = None if sys.stdout.isatty() else 140
    for text in texts:
        if isinstance(text, str):
            print(text)
        elif text is not None:
            Console(width=width).print(text)


def keep(*writers: Callable[[], None]) -> None:
    """Writes down what has been shown; what cannot be written is told, in one error, and the command ends with exit code 1."""
    for write in writers:
        try:
            write()
        except WriteError as error:
            log.log(logging.WARNING if "error" in _said else logging.ERROR, "%s", error)


class _Lines(logging.Handler):
    """Log records as lines on standard error, whichever file that is at the moment. A command that has told an error of ours
    goes on, and ends with exit code 1."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.levelno >= logging.ERROR and record.name.startswith("mmtfrs")
        if error:
            _said.add("error")
        note("error: " * error + self.format(record))


def run_app(command: typer.Typer) -> None:
    """Runs a command line."""
    # What TensorFlow logs of its own work (absent GPUs, retracing) is no message of a command. Its C++ part reads the variable.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for library in ("tensorflow", "matplotlib"):  # the latter tells where it cannot write its cache
        logging.getLogger(library).setLevel(logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):  # titles may have what the terminal's encoding has not
        sys.stdout.reconfigure(errors="replace")
    root = logging.getLogger()
    if not any(isinstance(handler, _Lines) for handler in root.handlers):
        root.addHandler(_Lines())
    logging.getLogger("mmtfrs").setLevel(logging.INFO)
    try:
        with stopping():
            command()
    except BrokenPipeError:
        _let_go()
        sys.exit(1)


def _let_go() -> None:
    """What standard output did not take, the interpreter would try again at its end, and tell of it in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class CommandLine(typer.Typer):
    """Commands that tell a user's mistake in its own words, with exit code 1, and wrong usage with 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options)

    def command(self, name: str | None = None, goes_on: bool = False, **options: Any) -> Callable[[_Function], _Function]:
        """`goes_on`: whether the command, stopped and run again, goes on where it was."""
        return super().command(name, cls=_Resumed if goes_on else _Command, **options)


class _Command(typer.core.TyperCommand):
    advice = AGAIN

    def invoke(self, context: Any) -> Any:  # the class that Typer gives it has no public name
        _said.clear()
        advise(self.advice)
        try:
            result = super().invoke(context)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except Exception as error:
            told = error if isinstance(error, Error) else _disk_error(error) or import_fault(error)
            # What was cut off by a signal may fail in any way.
            if told is None or stopped() or context.params.get("debug") or context.find_root().params.get("debug"):
                raise
            if context.params.get("as_json") and "document" not in _said:
                print(json.dumps({"error": str(told)}))
            text = str(told)  # problems of a file already begin so
            note(text if text.startswith("error: ") else f"error: {text}")
            _let_go()
            raise typer.Exit(1) from None
        if "error" in _said:
            raise typer.Exit(1)
        return result


class _Resumed(_Command):
    advice = GOES_ON


def _disk_error(error: Exception) -> Error | None:
    """What no file's reader or writer has told: a full disk under standard output, or under a file of another library."""
    name = getattr(error, "filename", None)
    found = write_error(error, str(name or "a file, or what is printed,"))
    if found is not None and found.code in FULL:
        return found
    return Error(f"{name}: {error.strerror}.") if isinstance(error, OSError) and name and error.strerror else None
