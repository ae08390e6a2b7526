"""Files of word vectors: GloVe's text, and word2vec's text and binary, read row by row into one matrix."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmtfrs.errors import EncoderError

_LONGEST = 1 << 20  # bytes of a line
_LONGEST_WORD = 1 << 12  # bytes of a word before its binary numbers
_BLOCK = 1 << 24
_PACKED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2"}
Row = tuple[bytes, np.ndarray]


def read_vectors(path: str | Path) -> tuple[list[bytes], np.ndarray]:
    """Reads lines of `word v1 v2 ...`, with or without a first line `count dim`, or that line and word2vec's binary rows.

    Args:
        path: the file, unpacked.

    Returns:
        `(words, vectors [n, dim] float32)`; of a word that is there twice, the first.

    Raises:
        EncoderError: this is no such file, or it is damaged; names the line.
    """
    path = Path(path)
    known: dict[bytes, int] = {}
    try:
        with path.open("rb") as file:
            count, dim, rows = _opened(path, file)
            matrix = np.zeros((count, dim), np.float32)
            for word, vector in rows:
                if word not in known:
                    matrix[len(known)] = vector
                    known[word] = len(known)
    except OSError as error:
        raise EncoderError(f"{path}: the word vectors cannot be read ({error}).") from None
    if not known:
        raise EncoderError(f"{path}: this file holds no word vectors.")
    return list(known), matrix[: len(known)]


def _opened(path: Path, file: BinaryIO) -> tuple[int, int, Iterator[Row]]:
    """At most how many rows there are, of how many numbers, and the rows."""
    first = file.readline(_LONGEST)
    for mark, kind in _PACKED.items():
        if first.startswith(mark) and b"\0" in first[:64] + file.peek(64)[:64]:  # type: ignore[attr-defined]
            raise EncoderError(f"{path}: this file is packed ({kind}). Unpack it first.")
    fields = first.split()
    header = len(fields) == 2 and all(field.isdigit() for field in fields)
    if not header:
        dim = len(fields) - 1
        if dim < 1 or b"\0" in first:
            raise EncoderError(f"{path}: line 1 must be `word v1 v2 ...` or `count dim`. Received: {first[:60]!r}.")
        count = min(_lines(path), path.stat().st_size // (2 * dim + 2) + 1)  # a word, and a digit and a space for each number
        return count, dim, _text(path, 0, dim)
    count, dim = int(fields[0]), int(fields[1])
    head = file.read(_LONGEST_WORD)
    binary = not _is_text(head)
    left = path.stat().st_size - len(first)
    least = count * (dim * 4 + 2 if binary else dim * 2 + 2) - 1  # a word, a space, and the numbers
    if not count or not dim or left < least:
        raise EncoderError(
            f"{path}: is cut short: line 1 says {count} words of {dim} numbers, which are {least} bytes or more. "
            f"Received: {left} bytes."
        )
    return count, dim, _binary(path, len(first), count, dim) if binary else _text(path, 1, dim, count)


def _is_text(head: bytes) -> bool:
    """Whether rows are text: bytes of numbers are no UTF-8, or control characters."""
    try:
        head[: head.rfind(b"\n") + 1].decode() if b"\n" in head else head.decode()
    except UnicodeDecodeError:
        return False
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def _text(path: Path, skipped: int, dim: int, count: int | None = None) -> Iterator[Row]:
    number = found = 0
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy's way to say that something is no number
        while line := file.readline(_LONGEST):
            number += 1
            if number <= skipped or not line.strip():
                continue
            if len(line) == _LONGEST and not line.endswith(b"\n"):
                raise EncoderError(f"{path}: line {number} is longer than {_LONGEST} bytes.")
            found += 1
            if count is not None and found > count:
                raise EncoderError(f"{path}: line 1 says {count} words; line {number} is one more.")
            word, _, rest = line.partition(b" ")
            vector = _numbers(rest)
            if not word or vector is None or len(vector) != dim:
                word, vector = _odd_row(path, number, line, dim)
            if not np.isfinite(vector).all():
                raise EncoderError(f"{path}: line {number}: numbers must be finite float32.")
            yield word, vector
    if count is not None and found < count:
        raise EncoderError(f"{path}: is cut short: line 1 says {count} words. Received: {found}.")


def _numbers(text: bytes) -> np.ndarray | None:
    try:
        with np.errstate(over="ignore"):
            return np.fromstring(text, np.float32, sep=" ")
    except (DeprecationWarning, ValueError):
        return None


def _odd_row(path: Path, number: int, line: bytes, dim: int) -> Row:
    """A row whose word has spaces in it, as some of GloVe's have, or that is separated by tabs."""
    parts = line.rsplit(None, dim)
    vector = _numbers(b" ".join(parts[1:]))
    name = parts[0].strip().split()
    longer = len(name) > 1 and _numbers(name[-1]) is not None
    if len(parts) != dim + 1 or vector is None or len(vector) != dim or longer:
        raise EncoderError(
            f"{path}: line {number} must be a word and {dim} numbers, as line 1 says. Received: {len(line.split())} fields, "
            f"{line[:40]!r}."
        )
    return b" ".join(name), vector


def _binary(path: Path, start: int, count: int, dim: int) -> Iterator[Row]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = start
        for number in range(1, count + 1):
            while data[place : place + 1] == b"\n":  # some writers end rows by it
                place += 1
            end = data.find(b" ", place, place + _LONGEST_WORD)
            if end < 0 or end + 1 + 4 * dim > len(data):
                what = "the file ends within it" if len(data) - place < _LONGEST_WORD + 4 * dim else "no word begins there"
                raise EncoderError(f"{path}: word {number} of {count} cannot be read: {what}. Is the file damaged?")
            vector = np.frombuffer(data[end + 1 : end + 1 + 4 * dim], "<f4")
            if not np.isfinite(vector).all():
                raise EncoderError(f"{path}: word {number} of {count}: numbers must be finite float32.")
            yield data[place:end], vector
            place = end + 1 + 4 * dim
        if data[place:].strip():
            raise EncoderError(f"{path}: line 1 says {count} words; there are {len(data) - place} bytes behind them.")
