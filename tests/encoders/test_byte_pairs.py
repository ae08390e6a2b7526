"""CLIP's tokenizer in the graph, against the library that models come with and against Unicode's composition."""

from __future__ import annotations

import json
import random
import unicodedata

import pytest
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from mmtfrs._keras import tf
from mmtfrs.encoders.byte_pairs import BytePairs, alphabet
from mmtfrs.encoders.composed import Composed
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.tower_tokens import clip_tokens
from mmtfrs.errors import EncoderError

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
FIRST, LAST = "<|startoftext|>", "<|endoftext|>"
STRANGE = (
    "",
    " \t\n\u2003 ",
    "it's they're I'VE 'tis 'll'd's '' !'s 's' ' s r're''re",
    "a1b22 ½Ⅷ x²",
    "don't!!! ... 'd",
    "E\u0301 É e\u0327\u0301 \u1112\u1161\u11ab \u0130 ΣΑΣ ß",
    "a\x00b\ufffdc\u200bd\u0085e\x1cf",
    "猫猫a猫 👩\u200d🚀",
    "l'",
    "'",
)


def _theirs(vocabulary, merges):
    """As `CLIPTokenizerFast` makes it."""
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocabulary, merges, unk_token=LAST, continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made


def _texts(count):
    """Of all code points that this Python knows, but for marks that are so young that the library does not order them; and of what
    matters to the rules."""
    draw, old = random.Random(0), unicodedata.ucd_3_2_0
    points = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    points = [point for point in points if not unicodedata.combining(point) or old.category(point) != "Cn"]
    plain = ["'s", "'re", "'", "''", " ", "th", "the", "ing ", "dress", "é", "e\u0301", "1", "23", "猫", "ж", "!", "?'", "'ve"]
    plain += ["'t", " \n", "ßtr", "İ", "ll", "'ll", "'d", "d", "\u0327", "\u1100", "\u1161", "\u11a8"]

    def text():
        return "".join(draw.choice(points) if draw.random() < 0.3 else draw.choice(plain) for _ in range(draw.randint(0, 40)))

    return [*STRANGE, *(text() for _ in range(count))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer with two thousand merges, learned from some of the texts that it is asked for."""
    letters = [letter + end for end in ("", "</w>") for letter in alphabet()]
    made = _theirs({letter: number for number, letter in enumerate([*letters, FIRST, LAST])}, [])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=3000,
        initial_alphabet=list(alphabet()),
        end_of_word_suffix="</w>",
        special_tokens=[FIRST, LAST],
        show_progress=False,
    )
    made.train_from_iterator(_texts(3000), trainer)
    folder = tmp_path_factory.mktemp("trained")
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder, made


def _run(tokenizer, texts):
    run = tf.function(tokenizer.__call__, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    return run(tf.constant(texts, tf.string)).to_list()


def _ids(folder, texts, longest=1000):
    tokens = tf.function(clip_tokens(ModelFolder(folder), 1 << 20, longest), autograph=False)
    ids, there = tokens(tf.constant(texts, tf.string))
    return [row[kept].tolist() for row, kept in zip(ids.numpy(), there.numpy(), strict=True)]


def test_thousands_of_random_strings_have_the_ids_of_the_tokenizers_library(trained):
    """By the file that it writes; the first merges join bytes of one character, the last whole words."""
    folder, theirs = trained
    first, last = theirs.token_to_id(FIRST), theirs.token_to_id(LAST)
    texts = _texts(5000)
    assert len(json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]) > 2000
    assert _ids(folder, texts) == [[first, *each.ids, last] for each in theirs.encode_batch(texts)]


@pytest.mark.long
def test_files_of_the_older_kind_are_cleaned_as_the_older_tokenizer_does(trained, tmp_path):
    """Control characters are nothing, and ideographs stand alone; all else is the same."""
    folder, _ = trained
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, model["merges"])) + "\n")
    texts = ["a\x00b\u200bc\x0bd\ufffd", "猫犬 a猫", "the DRESS isn't\xa0é"]
    cleaned = ["abcd", " 猫  犬  a 猫 ", "the dress isn't é"]
    assert _ids(tmp_path, texts) == _ids(folder, cleaned)
    assert _ids(folder, texts[:2]) != _ids(folder, cleaned[:2])


def test_characters_are_composed_as_unicode_says():
    """Also marks in the wrong order, syllables of Hangul, marks that block each other, and marks that begin a text."""
    draw = random.Random(0)
    points = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    marks = [point for point in points if unicodedata.combining(point)]
    whole = [point for point in points if unicodedata.decomposition(point)[:1] not in ("", "<")]
    jamo = [chr(code) for code in (*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A7, 0x11C3), 0xAC00, 0xAC01)]
    kinds = [points, marks, whole, jamo, "aeoiuAEÅ"]
    texts = ["".join(draw.choice(draw.choice(kinds)) for _ in range(draw.randint(1, 30))) for _ in range(3000)]
    decoded = tf.strings.unicode_decode(tf.constant(texts), "UTF-8")
    codes, rows = Composed()(decoded.flat_values, tf.cast(decoded.value_rowids(), tf.int32))
    found = [""] * len(texts)
    for code, row in zip(codes.numpy(), rows.numpy(), strict=True):
        found[row] += chr(code)
    assert found == [unicodedata.normalize("NFC", text) for text in texts]
    assert sum(found[row] != text for row, text in enumerate(texts)) > 2000


def test_the_lowest_rank_is_merged_first_and_of_one_the_first():
    """By hand, and the same by the library: `aaa` is `aa|a`, and `abc` is cut where the lower rank is, though `ab` stands first."""
    names = [letter + end for end in ("", "</w>") for letter in "abc"] + [
        LAST,
        "bc</w>",
        "ab",
        "aa",
        "aa</w>",
        "aab",
        "abc</w>",
    ]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [("b", "c</w>"), ("a", "b"), ("a", "a"), ("a", "a</w>"), ("aa", "b"), ("ab", "c</w>")]
    cut = BytePairs(vocabulary, merges, vocabulary[LAST], 99)
    texts = ["abc", "aaa", "aab", "abab", "aaaa", "az", "", "c"]
    by_hand = [
        ["a", "bc</w>"],
        ["aa", "a</w>"],
        ["aa", "b</w>"],
        ["ab", "a", "b</w>"],
        ["aa", "aa</w>"],
        ["a", LAST],
        [],
        ["c</w>"],
    ]
    assert _run(cut, texts) == [[vocabulary[name] for name in row] for row in by_hand]
    assert [each.ids for each in _theirs(vocabulary, merges).encode_batch(texts)] == _run(cut, texts)


def test_what_comes_behind_the_most_is_cut_off(trained):
    """Also of a text of a million characters, in words, in one and in digits: it takes no longer than the part that is read."""
    folder, theirs = trained
    texts = ["the dress " * 100_000, "the" * 330_000, "1" * 1_000_000, ""]
    found = _ids(folder, texts, longest=77)
    assert [len(row) for row in found] == [77, 77, 77, 2]
    for row, text in zip(found[:3], ("the dress " * 99, "the" * 300, "1" * 99), strict=True):
        assert row[1:-1] == theirs.encode(text).ids[:75]


@pytest.mark.parametrize(
    ("merges", "told"),
    [
        ([("a", "z")], "the vocabulary has no `z`, which is merged"),
        ([("a", "b")], "the vocabulary has no `ab`, which is merged"),
    ],
)
def test_merges_of_another_tokenizer_are_told(merges, told):
    with pytest.raises(EncoderError, match=told):
        BytePairs({"a": 0, "b": 1}, merges, 0, 9)


def test_bytes_are_those_of_utf8():
    """Each in the vocabulary under the letter that the published ones have for it: `Ġ` is a space, `Ã©` an é."""
    assert len(set(alphabet())) == 256
    assert (alphabet()[0x20], "".join(alphabet()[byte] for byte in "é".encode())) == ("Ġ", "Ã©")
    names = [letter + end for end in ("", "</w>") for letter in alphabet()]
    cut = BytePairs({name: number for number, name in enumerate(names)}, [], 0, 99)
    text = "aé猫🚀"
    split = [[*part.encode()] for part in ("aé猫", "🚀")]
    assert _run(cut, [text]) == [[byte + 256 * (place == len(part) - 1) for part in split for place, byte in enumerate(part)]]
