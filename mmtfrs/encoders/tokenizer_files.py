"""A tokenizer's files -> the tokenizer in the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mmtfrs._keras import tf
from mmtfrs.encoders.characters import bert_characters, small_characters
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.unigram import Unigram
from mmtfrs.encoders.unigram_files import UnigramFiles, check_added, read_fairseq, read_json
from mmtfrs.encoders.wordpiece import WordPiece
from mmtfrs.errors import EncoderError

Tokens = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
_XLM_R = "sentencepiece.bpe.model"  # a unigram model all the same


class _Read(NamedTuple):
    """Attributes:

    cut: texts -> ids of pieces.
    first, last: ids that a text stands between.
    size: rows of the embedding that are needed.
    """

    cut: Callable[[tf.Tensor], tf.RaggedTensor]
    first: int
    last: int
    size: int


def read_tokens(folder: ModelFolder, size: int, longest: int) -> Tokens:
    """`[B] string -> (ids [B, T] int32, there [B, T] bool)`, T that of the longest text.

    Args:
        folder: with `tokenizer.json`, or `vocab.txt` and `tokenizer_config.json`, or `sentencepiece.bpe.model`.
        size: rows of the embedding.
        longest: tokens that the network takes, special ones included.

    Raises:
        EncoderError: there are no such files, or the tokenizer is of another kind.
    """
    told, sentence = folder.json("tokenizer_config.json", {}), folder.json("sentence_bert_config.json", {})
    most = min(longest, int(sentence.get("max_seq_length") or told.get("model_max_length") or longest)) - 2
    lowercase = bool(sentence.get("do_lower_case"))  # sentence-transformers does so before the tokenizer
    if folder.has("tokenizer.json") and folder.json("tokenizer.json")["model"].get("type") == "Unigram":
        around = _around(folder, ("<s>", "</s>"))
        found = _unigram(folder, read_json(folder), around, most, lowercase)
    elif folder.has("tokenizer.json"):
        pieces, settings, around, unknown = _from_tokenizer(folder)
        found = _wordpiece(folder, pieces, settings, (*around, unknown), most, lowercase)
    elif folder.has("vocab.txt"):
        pieces = folder.text("vocab.txt").removesuffix("\n").split("\n")
        settings = {"lowercase": told.get("do_lower_case", True), "strip_accents": told.get("strip_accents")}
        settings["handle_chinese_chars"] = told.get("tokenize_chinese_chars", True)
        usual = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        begin, end, unknown = (content(told.get(name), token) for name, token in usual.items())
        found = _wordpiece(folder, pieces, settings, (begin, end, unknown), most, lowercase)
    elif folder.has(_XLM_R):
        found = _unigram(folder, read_fairseq(folder, _XLM_R), ("<s>", "</s>"), most, lowercase)
    else:
        raise EncoderError(
            f"{folder.path}: has no tokenizer.json and no vocab.txt or {_XLM_R}: copy the tokenizer's files beside the weights."
        )
    check_size(folder, found.size, size)

    def tokens(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        column = tf.ones([tf.size(texts), 1], tf.int32)
        ids = tf.concat([found.first * column, found.cut(texts), found.last * column], axis=1)
        return ids.to_tensor(0), tf.sequence_mask(ids.row_lengths())

    return tokens


def check_size(folder: ModelFolder, tokens: int, rows: int) -> None:
    """Raises `EncoderError` where a tokenizer has more tokens than the embedding has rows."""
    if tokens > rows:
        raise EncoderError(
            f"{folder.path}: the tokenizer has {tokens} tokens, and the embedding {rows} rows. Are both of one model?"
        )


def content(token: Any, usual: str) -> str:
    """Tokens are written as texts or as mappings."""
    return str((token["content"] if isinstance(token, dict) else token) or usual)


def _unigram(folder: ModelFolder, read: UnigramFiles, around: tuple[str, str], most: int, lowercase: bool) -> _Read:
    first, last = (special_id(folder, read.ids, token) for token in around)
    characters = small_characters() if lowercase or read.lowercase else None
    return _Read(Unigram(read.vocabulary, read.spelling, read.spaces, most, characters), first, last, read.size)


def special_id(folder: ModelFolder, ids: Mapping[str, int], token: str) -> int:
    """Raises `EncoderError` where the vocabulary has no such token."""
    if token not in ids:
        raise EncoderError(f"{folder.path}: the vocabulary has no `{token}`.")
    return ids[token]


def _wordpiece(
    folder: ModelFolder, pieces: list[str], settings: dict, special: tuple[str, str, str], most: int, small: bool
) -> _Read:
    """`special`: first, last and unknown token."""
    ids = {piece: number for number, piece in reversed(list(enumerate(pieces)))}
    first, last, _ = (special_id(folder, ids, token) for token in special)
    lowercase, strip = bool(settings.get("lowercase", True)), settings.get("strip_accents")
    characters = bert_characters(
        lowercase or small, lowercase if strip is None else bool(strip), settings.get("handle_chinese_chars", True)
    )
    return _Read(WordPiece(pieces, special[2], characters, most), first, last, len(pieces))


def _from_tokenizer(folder: ModelFolder) -> tuple[list[str], dict, tuple[str, str], str]:
    """`(pieces, normalizer's settings, first and last token, unknown token)` of a `tokenizer.json`."""
    made, where = folder.json("tokenizer.json"), folder.path / "tokenizer.json"
    model, normalizer = made["model"], made.get("normalizer") or {}
    kinds = (model.get("type", "WordPiece"), normalizer.get("type"), (made.get("pre_tokenizer") or {}).get("type"))
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        raise EncoderError(f"{where}: unknown tokenizer {' / '.join(map(str, kinds))}; known are BERT's WordPiece and Unigram.")
    vocabulary: dict[str, int] = model["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    added = [each["content"] for each in made.get("added_tokens", ()) if each["content"] not in vocabulary]
    whole = [vocabulary[piece] for piece in pieces] == list(range(len(pieces)))
    check_added(where, added if whole else [*added, "ids are left out"])
    return pieces, normalizer, _around(folder, ("[CLS]", "[SEP]")), str(model.get("unk_token") or "[UNK]")


def _around(folder: ModelFolder, usual: tuple[str, str]) -> tuple[str, str]:
    """The tokens that a text stands between, by a `tokenizer.json`."""
    processor = folder.json("tokenizer.json").get("post_processor") or {}
    if processor.get("type") == "TemplateProcessing":
        around = [each["SpecialToken"]["id"] for each in processor["single"] if "SpecialToken" in each]
    else:
        around = [processor.get(name, [token])[0] for name, token in zip(("cls", "sep"), usual, strict=True)]
    if len(around) != 2:
        raise EncoderError(
            f"{folder.path / 'tokenizer.json'}: a text must stand between two special tokens. Found: {', '.join(around)}."
        )
    return around[0], around[1]
