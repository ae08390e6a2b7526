"""The tokenizer in the graph against the one that models are trained with."""

from __future__ import annotations

import random
import unicodedata

import pytest
import tokenizers

from mmtfrs._keras import tf
from mmtfrs.encoders.characters import bert_characters
from mmtfrs.encoders.wordpiece import WordPiece

WORDS = [
    "the",
    "rock",
    "rocket",
    "##et",
    "##s",
    "un",
    "##believ",
    "##able",
    "a",
    "##b",
    "c",
    "o",
    "##",
    "#",
    "!",
    "?",
    "é",
    "e",
]
WORDS += ["##e", "猫", "ß", "ss", "##ss", "ﬁ", "i", "##i"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *map(chr, range(0x3B1, 0x3CA)), *map(chr, range(0x430, 0x450))]
VOCABULARY += [f"##{chr(code)}" for code in (*range(0x66, 0x7B), *range(0x3B1, 0x3CA), *range(0x430, 0x450))]
STRANGE = (
    "",
    " \t\n\u2003 ",
    "The ROCKETS' rocket, unbelievable!",
    "abab abx rocke rockets unbelievables",
    "É e\u0301\u0327 ÉÉ \u0130 ŉ Σίσυφος ΣΑΣ ς",
    "猫猫a猫 \u2f00 \uf900\u3400",
    "a\x00b\ufffdc\u200bd\u00ade\u0085f\ue000g\x0bh",
    "[CLS] [UNK] ##et #et a##b",
    "한국어 \u1112\u1161\u11ab",
    "a" * 100 + " " + "a" * 101 + " " + "ab" * 50,
    "👩\u200d🚀🏳\ufe0f\u200d🌈 \U0001f1e9\U0001f1ea",
    "\u0300a \u0301\u0300 b\u0315\u0300",
)


def _cut(texts, most=1 << 20, **normalizer):
    piece = WordPiece(VOCABULARY, "[UNK]", bert_characters(**normalizer), most)
    return tf.function(piece.__call__, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)(
        tf.constant(texts, tf.string)
    ).to_list()


def _theirs(**normalizer):
    cut = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: row for row, piece in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    cut.normalizer = tokenizers.normalizers.BertNormalizer(**normalizer)
    cut.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return lambda texts: [found.ids for found in cut.encode_batch(list(texts), add_special_tokens=False)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"lowercase": False, "strip_accents": False}, {"lowercase": False, "strip_accents": False}),
        ({"lowercase": False}, {"lowercase": False, "strip_accents": True}),
        ({"strip_accents": False, "ideographs": False}, {"strip_accents": False, "handle_chinese_chars": False}),
    ],
)
def test_strange_texts_have_the_ids_of_the_tokenizers_library(ours, theirs):
    assert _cut(STRANGE, **ours) == _theirs(**theirs)(STRANGE)


def test_ten_thousand_random_strings_have_the_ids_of_the_tokenizers_library():
    """Of all code points that Unicode 13, the oldest that a Python here has, knows; half of them beside words that are known."""
    draw = random.Random(0)
    points = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    points = [
        point for point in points if point not in "\U00011938"
    ]  # came with 13, in two parts that the original does not know
    plain = [word.removeprefix("##") for word in WORDS] + ["α", "σς", "привет", " ", " "]

    def text():
        parts = (draw.choice(points) if draw.random() < 0.5 else draw.choice(plain) for _ in range(draw.randint(1, 40)))
        return "".join(parts)

    texts = [text() for _ in range(10_000)]
    assert _cut(texts) == _theirs()(texts)


def test_what_comes_behind_the_most_is_cut_off():
    """Also where it is a text of a million characters, which takes no longer than the part that is read."""
    long = "rockets " * 125_000
    assert _cut([long, "", "the the"], most=5) == [_theirs()(["rockets rockets rockets"])[0][:5], [], [4, 4]]
