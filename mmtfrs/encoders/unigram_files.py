"""A unigram tokenizer's files -> what the tokenizer in the graph is made of."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmtfrs.encoders.characters import BLANKS
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.sentencepiece_file import UNKNOWN_PENALTY, read_sentencepiece
from mmtfrs.encoders.spelling import read_charsmap
from mmtfrs.encoders.unigram import MARK, Spaces, Vocabulary
from mmtfrs.errors import EncoderError

_SEVERAL = " {2,}"  # the pattern of spaces of which one is left
_PUNCTUATION = re.compile(r"\[(?:\\?[!-/:-@\[-`{-~])+\]")  # any pattern of such characters alone


class UnigramFiles(NamedTuple):
    """Attributes:

    ids: of all pieces, special ones too.
    vocabulary, spelling, spaces: as `Unigram` takes them.
    lowercase: letters are made small first.
    dropped: characters that are left out first.
    """

    ids: Mapping[str, int]
    vocabulary: Vocabulary
    spelling: dict[str, str]
    spaces: Spaces
    lowercase: bool = False
    dropped: str = ""

    @property
    def size(self) -> int:
        """How many rows of an embedding are needed."""
        return max(self.ids.values()) + 1


def read_model(folder: ModelFolder, name: str) -> UnigramFiles:
    """A file of SentencePiece. Raises `EncoderError` where it is damaged or of another kind."""
    try:
        found = read_sentencepiece(folder.data(name))
    except ValueError as error:
        raise EncoderError(f"{folder.path / name}: cannot be read ({error}).") from None
    ids = {piece: number for number, piece in enumerate(found.names)}
    return UnigramFiles(ids, found.vocabulary, found.spelling, found.spaces)


def read_fairseq(folder: ModelFolder, name: str) -> UnigramFiles:
    """A file of SentencePiece with the ids of XLM-R: one further, behind special ones in an order of their own."""
    found, special = read_model(folder, name), {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    if [found.ids.get(piece) for piece in ("<unk>", "<s>", "</s>")] != [0, 1, 2]:
        raise EncoderError(f"{folder.path / name}: the first pieces must be <unk>, <s> and </s>, as XLM-R has them.")
    ids = {piece: number + 1 for piece, number in found.ids.items() if number >= len(special) - 1} | special
    pieces = {piece: (number + 1, score) for piece, (number, score) in found.vocabulary.pieces.items()}
    vocabulary = found.vocabulary._replace(pieces=pieces, unknown=special["<unk>"])
    return found._replace(ids=ids, vocabulary=vocabulary)


def read_json(folder: ModelFolder, punctuation: bool = False) -> UnigramFiles:
    """A `tokenizer.json` whose model is `Unigram`.

    Args:
        folder: with the file.
        punctuation: whether it may leave out punctuation, and take all blanks for one; the caller does so then.

    Raises:
        EncoderError: a part is of another kind.
    """
    made, where = folder.json("tokenizer.json"), folder.path / "tokenizer.json"
    model = made["model"]
    if model.get("byte_fallback"):
        raise EncoderError(f"{where}: byte_fallback is not known here.")
    names = [str(piece) for piece, _ in model["vocab"]]
    ids = {piece: number for number, piece in enumerate(names)}
    added = [each["content"] for each in made.get("added_tokens") or ()]
    check_added(where, [piece for piece in added if piece not in ids])
    unknown, scores = model.get("unk_id"), [float(score) for _, score in model["vocab"]]
    if not isinstance(unknown, int) or not 0 <= unknown < len(names):
        raise EncoderError(f"{where}: has no `unk_id`, a piece for what is unknown.")
    special = {*added, names[unknown]}  # which are plain text where a text spells them
    pieces = {piece: (ids[piece], scores[ids[piece]]) for piece in names if piece not in special}
    vocabulary = Vocabulary(pieces, unknown, min(scores) - UNKNOWN_PENALTY)
    before, words = flat_parts(made.get("normalizer"), "normalizers"), flat_parts(made.get("pre_tokenizer"), "pretokenizers")
    spelling: dict[str, str] = {}
    lowercase = repeated = trailing = False
    dropped = ""
    for part in before:
        kind, pattern = part.get("type"), str((part.get("pattern") or {}).get("Regex") or "")
        if kind == "Precompiled" and not spelling:
            try:
                spelling = read_charsmap(base64.b64decode(part.get("precompiled_charsmap") or ""))
            except ValueError as error:
                raise EncoderError(f"{where}: the precompiled_charsmap cannot be read ({error}).") from None
        elif kind == "Lowercase" and not spelling:
            lowercase = True
        elif kind == "Replace" and pattern == _SEVERAL and part.get("content") in (" ", MARK):
            repeated = True
        elif kind == "Strip":
            trailing = trailing or bool(part.get("strip_right"))
        elif punctuation and kind == "Replace" and part.get("content") == "" and _PUNCTUATION.fullmatch(pattern):
            dropped += re.sub(r"\\(.)", r"\1", pattern[1:-1])
        elif not (punctuation and kind == "Replace" and pattern == r"\s+" and part.get("content") == " "):
            raise EncoderError(f"{where}: unknown normalizer {kind} {pattern}; known are those of SentencePiece.")
    if [part.get("type") for part in words][-1:] != ["Metaspace"] or words[-1].get("replacement", MARK) != MARK:
        raise EncoderError(f"{where}: the pre_tokenizer must end in a Metaspace of `{MARK}`.")
    for part in words[:-1]:
        if part.get("type") != "WhitespaceSplit":
            raise EncoderError(f"{where}: unknown pre_tokenizer {part.get('type')}; known are WhitespaceSplit and Metaspace.")
        repeated = trailing = True
        spelling = dict.fromkeys(BLANKS, " ") | spelling
    prefix = words[-1].get("prepend_scheme") or ("always" if words[-1].get("add_prefix_space", True) else "never")
    if prefix == "never":
        raise EncoderError(f"{where}: a Metaspace that puts no space before a text is not known here.")
    return UnigramFiles(ids, vocabulary, spelling, Spaces(True, True, repeated, trailing), lowercase, dropped)


def check_added(where: Any, added: list[str]) -> None:
    """Raises `EncoderError` where a tokenizer has tokens beside its vocabulary."""
    if added:
        raise EncoderError(
            f"{where}: tokens were added to the vocabulary ({', '.join(added[:3])}), which no graph can tell from text. "
            "Take the tokenizer as it was before."
        )


def flat_parts(part: Any, name: str) -> list[dict]:
    """The parts of a sequence of them."""
    if not part:
        return []
    return [each for inner in part[name] for each in flat_parts(inner, name)] if part.get("type") == "Sequence" else [part]
