"""A tokenizer's files -> the tokenizer in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmtfrs._keras import tf
from mmtfrs.encoders.characters import bert_characters
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.wordpiece import WordPiece
from mmtfrs.errors import EncoderError

Tokens = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def read_tokens(folder: ModelFolder, size: int, longest: int) -> Tokens:
    """`[B] string -> (ids [B, T] int32, there [B, T] bool)`, T that of the longest text.

    Args:
        folder: with `tokenizer.json`, or `vocab.txt` and `tokenizer_config.json`.
        size: rows of the embedding.
        longest: tokens that the network takes, special ones included.

    Raises:
        EncoderError: there are no such files, or the tokenizer is of another kind.
    """
    told, sentence = folder.json("tokenizer_config.json", {}), folder.json("sentence_bert_config.json", {})
    most = min(longest, int(sentence.get("max_seq_length") or told.get("model_max_length") or longest))
    if folder.has("tokenizer.json"):
        pieces, settings, (begin, end, unknown) = _from_tokenizer(folder)
    elif folder.has("vocab.txt"):
        pieces = folder.text("vocab.txt").removesuffix("\n").split("\n")
        settings = {"lowercase": told.get("do_lower_case", True), "strip_accents": told.get("strip_accents")}
        settings["handle_chinese_chars"] = told.get("tokenize_chinese_chars", True)
        usual = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        begin, end, unknown = (_content(told.get(name), token) for name, token in usual.items())
    else:
        raise EncoderError(
            f"{folder.path}: has no tokenizer.json and no vocab.txt: copy the tokenizer's files beside the weights."
        )
    if len(pieces) > size:
        raise EncoderError(
            f"{folder.path}: the tokenizer has {len(pieces)} tokens, and the embedding {size} rows. Are both of one model?"
        )
    for special in (begin, end, unknown):
        if special not in pieces:
            raise EncoderError(f"{folder.path}: the vocabulary has no `{special}`.")
    lowercase, strip = bool(settings.get("lowercase", True)), settings.get("strip_accents")
    characters = bert_characters(
        lowercase or bool(sentence.get("do_lower_case")),  # sentence-transformers does so before the tokenizer
        lowercase if strip is None else bool(strip),
        settings.get("handle_chinese_chars", True),
    )
    cut = WordPiece(pieces, unknown, characters, most - 2)
    first, last = pieces.index(begin), pieces.index(end)

    def tokens(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        column = tf.ones([tf.size(texts), 1], tf.int32)
        ids = tf.concat([first * column, cut(texts), last * column], axis=1)
        return ids.to_tensor(0), tf.sequence_mask(ids.row_lengths())

    return tokens


def _content(token: Any, usual: str) -> str:
    """Tokens are written as texts or as mappings."""
    return str((token["content"] if isinstance(token, dict) else token) or usual)


def _from_tokenizer(folder: ModelFolder) -> tuple[list[str], dict, tuple[str, str, str]]:
    """`(pieces, normalizer's settings, (first, last, unknown token))` of a `tokenizer.json`."""
    made, where = folder.json("tokenizer.json"), folder.path / "tokenizer.json"
    model, normalizer = made["model"], made.get("normalizer") or {}
    kinds = (model.get("type", "WordPiece"), normalizer.get("type"), (made.get("pre_tokenizer") or {}).get("type"))
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        raise EncoderError(f"{where}: unknown tokenizer {' / '.join(map(str, kinds))}; known is BERT's WordPiece.")
    vocabulary: dict[str, int] = model["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    added = [each["content"] for each in made.get("added_tokens", ()) if each["content"] not in vocabulary]
    if added or [vocabulary[piece] for piece in pieces] != list(range(len(pieces))):
        raise EncoderError(
            f"{where}: tokens were added to the vocabulary ({', '.join(added[:3])}), which no graph can tell from text. "
            "Take the tokenizer as it was before."
        )
    processor = made.get("post_processor") or {}
    if processor.get("type") == "TemplateProcessing":
        around = [each["SpecialToken"]["id"] for each in processor["single"] if "SpecialToken" in each]
    else:
        around = [processor.get(name, [usual])[0] for name, usual in (("cls", "[CLS]"), ("sep", "[SEP]"))]
    if len(around) != 2:
        raise EncoderError(f"{where}: a text must stand between two special tokens. Found: {', '.join(around)}.")
    return pieces, normalizer, (around[0], around[1], str(model.get("unk_token") or "[UNK]"))
