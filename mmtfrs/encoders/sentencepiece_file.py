"""The file of a SentencePiece model, read without the library: a protobuf of pieces, scores and a normalizer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from mmtfrs.encoders.spelling import read_charsmap
from mmtfrs.encoders.unigram import Spaces, Vocabulary

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)  # types of pieces
_KINDS = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
UNKNOWN_PENALTY = 10.0  # below the score of the worst piece
_FIXED = {1: 8, 5: 4}  # bytes, by wire type


class SentencePieceFile(NamedTuple):
    """Attributes:

    names: of all pieces, in the order of their ids.
    vocabulary: those that a text is cut into.
    spaces, spelling: what is done to a text before.
    """

    names: list[str]
    vocabulary: Vocabulary
    spaces: Spaces
    spelling: dict[str, str]


def read_sentencepiece(data: bytes) -> SentencePieceFile:
    """Raises `ValueError` where the file is damaged, or the model is of another kind than unigram.

    Reference: `sentencepiece_model.proto` of SentencePiece 0.2; Kudo, Subword Regularization, ACL 2018.
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in _fields(data):
        if field == 1:
            pieces.append(_piece(_bytes(value)))
        elif field in (2, 3):
            told = dict(_fields(_bytes(value)))
            trainer, normalizer = (told, normalizer) if field == 2 else (trainer, told)
    kind = trainer.get(3, 1)
    if kind != 1:
        raise ValueError(f"a SentencePiece model of the kind {_KINDS.get(int(kind), kind)}; known is unigram")
    if trainer.get(35) or trainer.get(24):
        raise ValueError(f"SentencePiece's {'byte_fallback' if trainer.get(35) else 'whitespace as suffix'} is not known here")
    scores = [score for _, score, kind in pieces if kind == _NORMAL]
    unknown = [number for number, (*_, kind) in enumerate(pieces) if kind == _UNKNOWN]
    if not scores or len(unknown) != 1:
        raise ValueError("there are no pieces, or none for what is unknown: the file is damaged, or of something else")
    known, best = {}, max(scores)
    for number, (name, score, kind) in enumerate(pieces):
        if kind == _USER:  # always taken where it stands
            known[name] = (number, len(name.encode()) * best - 0.1)
        elif kind == _NORMAL:
            known[name] = (number, score)
    extra, escapes = (bool(normalizer.get(field, 1)) for field in (4, 5))
    if not escapes:
        raise ValueError("SentencePiece's escape_whitespaces is off, which is not known here")
    spaces = Spaces(prefix=bool(normalizer.get(3, 1)), leading=extra, repeated=extra, trailing=extra)
    # What a user has defined stands for itself.
    spelling = read_charsmap(_bytes(normalizer.get(2, b"")))
    spelling |= {name: name for name, _, kind in pieces if kind == _USER and name}
    vocabulary = Vocabulary(known, unknown[0], min(scores) - UNKNOWN_PENALTY)
    return SentencePieceFile([name for name, *_ in pieces], vocabulary, spaces, spelling)


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(data))
    number = _bytes(fields.get(2, b"\0" * 4))
    if len(number) != 4:
        raise ValueError("a piece's score is no number")
    (score,) = struct.unpack("<f", number)
    kind = fields.get(3, _NORMAL)
    if not isinstance(kind, int) or not _NORMAL <= kind <= _BYTE:
        raise ValueError("a piece is of no known type")
    return _bytes(fields.get(1, b"")).decode(), score, kind


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field is of another type than it should be")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """`(number, value)` of the fields of a protobuf message: whole numbers, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length, at = (_FIXED[kind], at) if kind in _FIXED else _varint(data, at)
        if kind not in (*_FIXED, 2) or at + length > len(data):
            raise ValueError("the file is cut off or damaged, or no SentencePiece model")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for number, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise ValueError("the file is cut off or damaged, or no SentencePiece model")
