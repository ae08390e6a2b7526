"""CSV, JSONL and Parquet files as Arrow tables of strings and numbers, with every problem found on the way."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from mmtfrs.data.problems import Problems
from mmtfrs.errors import nearest

_Name = TypeVar("_Name", bound=str)
_TEXTS = {".csv": ",", ".tsv": "\t"}  # what separates their columns
_DELIMITERS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}


def read_table(
    path: str | Path,
    required: tuple[str, ...],
    mapping: Mapping[_Name, str],
    problems: Problems,
    optional: tuple[str, ...] | None = None,
) -> tuple[pa.Table, int]:
    """Reads a whole file and gives its columns our names.

    Args:
        path: `.csv`, `.tsv`, `.jsonl` / `.ndjson` or `.parquet` (by ending), or a folder of Parquet files, which are read one
            behind the other in the order of their names.
        required: our names of the columns that must be there.
        mapping: `{our name: the file's name}`.
        problems: receives what is wrong; a file that cannot be read at all gives an empty table.
        optional: our names of the others that are wanted, so that Parquet need not be read whole; all if None.

    Returns:
        The table and the number that an editor gives its first row (2 for a CSV with its header, else 1).
    """
    path = Path(path)
    empty = pa.table({name: pa.array([], pa.string()) for name in required})
    theirs = {str(ours): name for ours, name in mapping.items()}
    needed, more = ([theirs.get(name, name) for name in names or ()] for names in (required, optional))

    def read_parquet(path: Path, problems: Problems) -> pa.Table | None:
        return _read_parquet(path, problems, {*needed, *theirs.values()}, None if optional is None else {*needed, *more})

    readers = {**dict.fromkeys(_TEXTS, _read_csv), ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": read_parquet}
    folder = path.is_dir()
    reader = read_parquet if folder else readers.get(path.suffix.lower())
    if reader is None:
        problems.error(path, (), f"the ending {path.suffix!r} is not known.", "Use .csv, .tsv, .jsonl or .parquet.")
        return empty, 1
    if not path.exists():
        problems.error(path, (), "there is no such file.", "Check the path.")
        return empty, 1
    if not folder and path.stat().st_size == 0:
        problems.error(path, (), "the file is empty.", f"It needs the columns {', '.join(required)}.")
        return empty, 1
    before = len(problems.errors)
    table = reader(path, problems)
    if table is None:
        return empty, 1
    table = _rename(path, table, required, mapping, problems)
    if len(problems.errors) == before and table.num_rows == 0:
        problems.error(path, (), "the file has no rows.", "Add at least one.")
    missing = [name for name in required if name not in table.column_names]
    return (empty if missing else table), first_row(path)


def first_row(path: Path) -> int:
    """The number that an editor gives the first row of a file: 2 where a header stands above it."""
    return 2 if path.suffix.lower() in _TEXTS else 1


def _rename(
    path: Path, table: pa.Table, required: tuple[str, ...], mapping: Mapping[_Name, str], problems: Problems
) -> pa.Table:
    names = list(table.column_names)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        problems.error(path, (), f"columns appear twice: {', '.join(repeated)}.", "Rename or drop one of each.")
        return table.select([])
    for ours, theirs in mapping.items():
        if theirs not in names:
            problems.error(
                path,
                (),
                f"the config maps `{ours}` to column `{theirs}`, which is not there.",
                f"Columns found: {', '.join(names)}.{nearest(theirs, names)}",
            )
        elif ours != theirs and ours in names:
            # The mapping wins; the user's column of our name stays, under a name that cannot be taken for ours.
            names[names.index(ours)] = f"{ours}_unmapped"
    names = [next((ours for ours, theirs in mapping.items() if theirs == name), name) for name in names]
    for name in required:
        if name not in names and name not in mapping:
            problems.error(
                path,
                (),
                f"the column `{name}` is missing.",
                f"Columns found: {', '.join(map(repr, names))}. Rename one, or map it in the config "
                f"(data.columns).{_delimiter_hint(names)}",
            )
    return table.rename_columns(names)


def _delimiter_hint(names: list[str]) -> str:
    if len(names) == 1:
        for sign, word in _DELIMITERS.items():
            if sign in names[0]:
                return f" The header looks separated by {word}: save the file with commas."
    return ""


def _bad_utf8_lines(path: Path) -> list[int]:
    """1-based numbers of the lines that are not UTF-8."""
    lines = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                lines.append(number)
    return lines


def _is_utf8(path: Path, problems: Problems) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
        lines = []
    except UnicodeDecodeError:
        lines = _bad_utf8_lines(path)
    if lines:
        problems.error(path, lines, "the text is not UTF-8.", "Save the file as UTF-8.")
    return not lines


def _read_csv(path: Path, problems: Problems) -> pa.Table | None:
    if not _is_utf8(path, problems):
        return None
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline().rstrip("\r\n")
    if not header.strip():
        problems.error(path, (1,), "the header line is empty.", "The first line must name the columns.")
        return None
    bad_rows: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        bad_rows.append(row.number if row.number is not None else 0)
        return "skip"

    try:
        sign = _TEXTS[path.suffix.lower()]
        names = next(csv.reader([header], delimiter=sign))
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),  # row numbers exist only without threads
            parse_options=pyarrow.csv.ParseOptions(delimiter=sign, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        problems.error(path, (), f"this is not a well-formed CSV file: {error}.", "Check quotes and separators.")
        return None
    if bad_rows:
        problems.error(
            path, bad_rows, f"the number of values is not {len(names)}, that of the header.", "Check commas and quotes there."
        )
    return table


def _read_jsonl(path: Path, problems: Problems) -> pa.Table | None:
    if not _is_utf8(path, problems):
        return None
    rows, bad = [], []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                bad.append(number)
    if bad:
        problems.error(path, bad, "the line is not one JSON object.", 'Write one {"column": value} per line.')
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([_as_text(row.get(name)) for row in rows], pa.string()) for name in names})


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _parquet_files(path: Path) -> list[Path]:
    """A file, or those of a folder and the folders in it."""
    return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]


def _read_parquet(path: Path, problems: Problems, needed: set[str], wanted: set[str] | None) -> pa.Table | None:
    """A file, or all of a folder: the columns that are wanted, each text once; everything as it is if that is None."""
    files = _parquet_files(path)
    if not files:
        problems.error(path, (), "the folder has no Parquet file.", "Name a file, or a folder of .parquet files.")
        return None
    tables, schemas, file = [], [], path
    try:
        for file in files:
            schemas.append(pyarrow.parquet.read_schema(file))
        for schema in schemas:
            if not needed <= {*schema.names} or len({*schema.names}) < len(schema.names):
                return schema.empty_table()  # what is wrong is told by the names
        names = [*dict.fromkeys(name for schema in schemas for name in schema.names if wanted is None or name in wanted)]
        for name in names:
            kinds = {str(schema.field(name).type) if name in schema.names else "absent" for schema in schemas} - {"null"}
            if len(kinds) > 1:
                problems.error(
                    path,
                    (),
                    f"the column `{name}` is not the same in all files ({', '.join(sorted(kinds))}).",
                    "Write it alike.",
                )
                return None
        for file, schema in zip(files, schemas, strict=True):
            here = [name for name in names if name in schema.names]
            texts = [name for name in here if wanted is not None and pa.types.is_string(schema.field(name).type)]
            tables.append(pyarrow.parquet.read_table(file, columns=here, read_dictionary=texts, partitioning=None))
        return pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowException, OSError) as error:
        what = "the file has vanished" if isinstance(error, FileNotFoundError) else "this is not a readable Parquet file"
        problems.error(path, (), f"{what}: {file.name}: {error}.", "Write it again.")
        return None


def as_strings(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column of any type as strings, with nulls as the empty string; whole numbers lose no digit."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    return column.fill_null("")
