"""The tokenizers of CLIP's and SigLIP's texts, from their files."""

from __future__ import annotations

import string

from mmtfrs._keras import tf
from mmtfrs.encoders.byte_pairs import BytePairs
from mmtfrs.encoders.characters import bert_characters, small_characters
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.tokenizer_files import Tokens, check_size, content, special_id
from mmtfrs.encoders.unigram import MARK, Spaces, Unigram
from mmtfrs.encoders.unigram_files import check_added, flat_parts, read_json, read_model
from mmtfrs.errors import EncoderError

_MODEL = "spiece.model"
# What Python takes for white space, which is more than Unicode does.
_BLANKS = "".join(letter for letter in map(chr, range(0x3001)) if letter.isspace()) + MARK
_CLIP = (
    "'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^\\s\\p{L}\\p{N}]+",
    "BPE",
    "</w>",
    "NFC Replace Lowercase",
    "Split ByteLevel",
)


def siglip_tokens(folder: ModelFolder, rows: int, longest: int) -> Tokens:
    """`[B] string -> (ids [B, T] int32, what is read [B, T] bool)`, T always the same. What fills a text up is read like the
    rest, unless the tokenizer gives an `attention_mask`; the published ones do not.

    A text is made small, ASCII punctuation is left out, and of blanks one is left, as `SiglipTokenizer` does.

    Args:
        folder: with `spiece.model`, or a `tokenizer.json` of the kind Unigram.
        rows: of the embedding.
        longest: tokens that the network takes.

    Raises:
        EncoderError: there are no such files, or the tokenizer is of another kind.
    """
    told = folder.json("tokenizer_config.json", {})
    if folder.has(_MODEL):
        read = read_model(folder, _MODEL)
    elif folder.has("tokenizer.json"):
        kind = folder.json("tokenizer.json")["model"].get("type")
        if kind != "Unigram":
            raise EncoderError(
                f"{folder.path / 'tokenizer.json'}: unknown tokenizer {kind}; known is the Unigram of SigLIP (not 2)."
            )
        read = read_json(folder, punctuation=True)
    else:
        raise _missing(folder, f"{_MODEL} and no tokenizer.json")
    check_size(folder, read.size, rows)
    length = min(longest, int(told.get("model_max_length") or longest))
    last, fill = (special_id(folder, read.ids, content(told.get(name), "</s>")) for name in ("eos_token", "pad_token"))
    characters = small_characters(_BLANKS, read.dropped or string.punctuation)
    # A mark is put before the text; where the table makes a space of it, it is one with those that follow.
    spaces = Spaces(prefix=True, leading=read.spelling.get(MARK) == " ", repeated=True, trailing=True)
    cut = Unigram(read.vocabulary, read.spelling, spaces, length - 1, characters)
    masked = "attention_mask" in told.get("model_input_names", ["attention_mask"])

    def tokens(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ids = tf.concat([cut(texts), tf.fill([tf.size(texts), 1], last)], axis=1)
        filled = ids.to_tensor(fill, shape=[None, length])
        return filled, tf.sequence_mask(ids.row_lengths(), length) if masked else tf.ones_like(filled, tf.bool)

    return tokens


def clip_tokens(folder: ModelFolder, rows: int, longest: int) -> Tokens:
    """`[B] string -> (ids [B, T] int32, there [B, T] bool)`, T that of the longest text.

    A `tokenizer.json` is `CLIPTokenizerFast`; without one it is `CLIPTokenizer`, to which control characters are nothing and
    each ideograph is a word.

    Args:
        folder: with `tokenizer.json`, or `vocab.json` and `merges.txt`.
        rows: of the embedding.
        longest: tokens that the network takes, special ones included.

    Raises:
        EncoderError: there are no such files, or the tokenizer is of another kind.
    """
    told, characters = folder.json("tokenizer_config.json", {}), None
    if folder.has("tokenizer.json"):
        made, where = folder.json("tokenizer.json"), folder.path / "tokenizer.json"
        model = made["model"]
        before, words = (
            flat_parts(made.get("normalizer"), "normalizers"),
            flat_parts(made.get("pre_tokenizer"), "pretokenizers"),
        )
        pattern = str((words[0].get("pattern") or {}).get("Regex")) if words else ""
        pattern = pattern.removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")  # which are plain text here
        pattern = pattern.replace(r"[\p{L}]", r"\p{L}").replace(r"[\p{N}]", r"\p{N}")
        kinds = (" ".join(str(part.get("type")) for part in parts) for parts in (before, words))
        if (pattern, model.get("type"), model.get("end_of_word_suffix"), *kinds) != _CLIP:
            raise EncoderError(f"{where}: unknown tokenizer {model.get('type')}; known is CLIP's, pairs of bytes.")
        vocabulary = model["vocab"]
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        check_added(where, [each["content"] for each in made.get("added_tokens") or () if each["content"] not in vocabulary])
    elif folder.has("vocab.json") and folder.has("merges.txt"):
        where, vocabulary = folder.path / "merges.txt", folder.json("vocab.json")
        characters = bert_characters(lowercase=False, strip_accents=False)
        lines = folder.text("merges.txt").split("\n")
        merges = [tuple(line.split(" ")) for line in lines[lines[0].startswith("#version") :] if line]
    else:
        raise _missing(folder, "tokenizer.json and no vocab.json with merges.txt")
    if any(len(pair) != 2 for pair in merges):
        raise EncoderError(f"{where}: a merge must be of two pieces.")
    check_size(folder, max(vocabulary.values(), default=0) + 1, rows)
    usual = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    first, last, unknown = (special_id(folder, vocabulary, content(told.get(name), token)) for name, token in usual.items())
    most = min(longest, int(told.get("model_max_length") or longest)) - 2
    cut = BytePairs(vocabulary, merges, unknown, most, characters)

    def tokens(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        column = tf.ones([tf.size(texts), 1], tf.int32)
        ids = tf.concat([first * column, cut(texts), last * column], axis=1)
        return ids.to_tensor(last), tf.sequence_mask(ids.row_lengths())

    return tokens


def _missing(folder: ModelFolder, what: str) -> EncoderError:
    return EncoderError(f"{folder.path}: has no {what}: copy the tokenizer's files beside the weights.")
