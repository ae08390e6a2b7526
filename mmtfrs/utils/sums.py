"""What a folder's files were when they were written: their sizes and CRC-32, so that a flipped bit is told where it is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
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
    write_json(path, {name: _sum(file) for name, file in files.items()})


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
        wanted = {name: (int(size), int(crc)) for name, (size, crc) in sums.items() if not names or name in names}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, OSError):
        return f"{path.name} cannot be read"
    for name, sums_of in wanted.items():
        try:
            if _sum(folder / name) != sums_of:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _sum(path: Path) -> tuple[int, int]:
    """Size and CRC."""
    size = crc = 0
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size, crc = size + count, zlib.crc32(memoryview(buffer)[:count], crc)
    return size, crc
