"""Files that are there complete or not at all, and one line where they cannot be written."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmtfrs.errors import Error, WriteError, first_line
from mmtfrs.utils.locks import lock, still_there

log = logging.getLogger("mmtfrs")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # there is no room
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# What libraries that raise errors of their own (TensorFlow, HDF5, safetensors, libsndfile, SQLite) say in their texts.
_WORDS = {os.strerror(code): code for code in (*FULL, *_CLOSED, errno.EIO)}
_WORDS |= {"disk is full": errno.ENOSPC, "readonly database": errno.EROFS, "unable to open database": errno.EACCES}
_WORDS |= {"disk I/O error": errno.EIO}
_BUGS = (LookupError, AttributeError, TypeError, NameError, AssertionError, ArithmeticError)  # no library tells a full disk so


def write_error(error: BaseException, path: str | Path) -> WriteError | None:
    """A failure to write a file or folder in one line, whoever tells of it; None for an error of another kind."""
    if isinstance(error, Error):
        return error if isinstance(error, WriteError) else None
    if isinstance(error, _BUGS):
        return None
    if code := _code(error):
        return _told(path, code, os.strerror(code))
    each = error.__cause__ or error.__context__
    while each is not None:  # what is raised while a file is closed may hide that there is no room for it
        if (code := _code(each)) in FULL:
            return _told(path, code, os.strerror(code))
        each = each.__cause__ or each.__context__
    if not isinstance(error, OSError):
        return None
    gone = error.filename if error.errno == errno.ENOENT else None  # what was to be copied, maybe
    return _told(gone or path, None, error.strerror or first_line(error))


def _code(error: BaseException) -> int | None:
    """The system's number of what is wrong with a file, where an error is of that."""
    if isinstance(error, OSError) and error.errno in _WORDS.values():
        return error.errno
    if isinstance(error, (ValueError, *_BUGS)) and type(error).__module__ == "builtins":
        return None  # it may be of anything
    return next((code for words, code in _WORDS.items() if words in str(error)), None)


def _told(path: str | Path, code: int | None, reason: str) -> WriteError:
    remedy = "Mend that and run the same command again."
    if code in FULL:
        remedy = "Make room and run the same command again."
    elif code in _CLOSED:
        remedy = "Make it writable, or name another place."
    error = WriteError(f"{path}: cannot be written ({reason}). {remedy}")
    error.code = code
    return error


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """What is done in the block writes this file or folder. Raises `WriteError` where it cannot be."""
    try:
        yield
    except Exception as error:
        if isinstance(error, WriteError) or (told := write_error(error, path)) is None:
            raise  # it names the file, or has nothing to do with it
        raise told from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file to write; it takes its place, flushed to the disk, when the block ends: a kill at any moment leaves the old
    file or the new one, and of two processes that write it at once, one waits. Raises `WriteError`."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with writing(path), _own(part) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()  # a full disk needs the room
            raise


@contextlib.contextmanager
def _own(part: Path) -> Iterator[IO[bytes]]:
    """An empty file under a name that others use too, locked."""
    while True:
        # It is emptied only once nobody else writes it.
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags & ~os.O_TRUNC, 0o666)) as file:
            lock(file.fileno(), wait=True)
            if still_there(file.fileno(), part):
                file.truncate(0)
                yield file
                return
        # The one that was waited for has renamed it.


def make_folder(folder: Path) -> None:
    """Makes a folder, if it is not there. Raises `WriteError`."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Raises `WriteError` where nothing can be written to a folder, which need not be there yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with writing(folder), tempfile.TemporaryFile(dir=place) as file:
        file.write(b"something")
        file.flush()


def save_array(path: Path, array: np.ndarray) -> None:
    """As `np.save`. Raises `WriteError`."""
    with replacing(path) as file:
        np.save(file, array)


def write_json(path: str | Path, document: Any) -> None:
    with replacing(path) as file:
        file.write(json.dumps(document, indent=1).encode())


def write_arrays(file: IO[bytes], arrays: Iterable[tuple[str, Any]]) -> None:
    """As `np.savez`, but one array at a time, with any names, and closed whatever happens."""
    with zipfile.ZipFile(file, "w") as packed:
        for name, values in arrays:
            with packed.open(f"{name}.npy", "w", force_zip64=True) as column:
                np.lib.format.write_array(column, np.asanyarray(values), allow_pickle=False)


def save_arrays(path: Path, arrays: Iterable[tuple[str, Any]]) -> None:
    """As `write_arrays`, a file in one go. Raises `WriteError`."""
    with replacing(path) as file:
        write_arrays(file, arrays)


def keep_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a `.npz`, unless just these arrays are in it already: the folder may be read-only."""
    with contextlib.suppress(Exception), np.load(path) as saved:  # it is not there, or damaged
        if all(np.array_equal(saved[name], values) for name, values in arrays.items()):
            return
    save_arrays(path, arrays.items())


def remove(folder: Path) -> None:
    """Removes a folder with all that is in it, if it is there. What cannot be removed stays, and is told."""
    if not os.path.lexists(folder):
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # the rest of it
        if folder.exists():
            log.error("%s: cannot be removed (%s). Remove it by hand.", folder, error.strerror or first_line(error))
