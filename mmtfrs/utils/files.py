"""Files that are there complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


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
