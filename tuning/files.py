"""Small files that are there complete or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: str | Path, document: Any) -> None:
    """Writes beside and renames: a kill at any moment leaves the old file or the new one."""
    path = Path(path)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_lines(path: Path) -> list[dict]:
    """The whole lines of a file of JSON lines; one that was cut off by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
