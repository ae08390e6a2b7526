"""What a folder's files were when they were written: their sizes and CRC-32, so that a flipped bit is told where it is read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmtfrs.utils.files import write_json

SUMS = "sums.json"
_CHUNK = 1 << 20


def write_sums(path: Path, files: Mapping[str, Path]) -> None:
    """Writes the sums of files.

    Args:
        path: of the sums.
        files: by their names relative to the folder that `wrong_file` is asked of.
    """
    write_json(path, dict(zip(files, _all(list(files.values())), strict=True)))


def wrong_file(folder: Path, path: Path, names: Collection[str] = ()) -> str | None:
    """What is wrong with the first file that is not as it was written; None if all are, or if there are no sums, as releases
    before wrote none.

    Args:
        folder: of the files.
        path: of the sums.
        names: of the files that are looked at; all if empty.
    """
    try:
        sums = json.loads(path.read_bytes())
        wanted = {folder / name: (int(size), int(crc)) for name, (size, crc) in sums.items() if not names or name in names}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, OSError):
        return f"{path.name} cannot be read"
    for each, found in zip(wanted, _all(list(wanted)), strict=True):
        if found != wanted[each]:
            name = each.relative_to(folder)
            return f"{name} is not there" if found is None else f"{name} is not what was written"
    return None


def _all(paths: list[Path]) -> list[tuple[int, int] | None]:
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(_sum, paths))


def _sum(path: Path) -> tuple[int, int] | None:
    """Size and CRC; None of a file that is not there."""
    size = crc = 0
    buffer = bytearray(_CHUNK)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size, crc = size + count, zlib.crc32(memoryview(buffer)[:count], crc)
    except FileNotFoundError:
        return None
    return size, crc
