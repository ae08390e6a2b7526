"""Files that are there complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file to write; it takes its place, flushed to the disk, when the block ends: a kill at any moment leaves the old
    file or the new one."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: str | Path, document: Any) -> None:
    with replacing(path) as file:
        file.write(json.dumps(document, indent=1).encode())


def write_arrays(file: IO[bytes], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """As `np.savez`, but one array at a time, and with any names."""
    with zipfile.ZipFile(file, "w") as packed:
        for name, values in arrays:
            with packed.open(f"{name}.npy", "w", force_zip64=True) as column:
                np.lib.format.write_array(column, values, allow_pickle=False)


def keep_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a `.npz`, unless just these arrays are in it already: the folder may be read-only."""
    with contextlib.suppress(Exception), np.load(path) as saved:  # it is not there, or damaged
        if all(np.array_equal(saved[name], values) for name, values in arrays.items()):
            return
    with replacing(path) as file:
        write_arrays(file, arrays.items())
