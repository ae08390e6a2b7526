"""The unigram tokenizer in the graph, against the library that models come with and against SentencePiece's rules by hand."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import struct
import unicodedata

import numpy as np
import pytest
import tokenizers

from mmtfrs._keras import tf
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.sentencepiece_file import read_sentencepiece
from mmtfrs.encoders.spelling import Spelling, read_charsmap
from mmtfrs.encoders.trie import reached
from mmtfrs.encoders.unigram import MARK, Spaces, Unigram, Vocabulary
from mmtfrs.encoders.unigram_files import read_fairseq, read_json, read_model
from mmtfrs.errors import EncoderError

NORMAL, UNKNOWN, CONTROL, USER, UNUSED = range(1, 6)
PIECES = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), (MARK, -2.0, NORMAL)]
PIECES += [(f"{MARK}a", -3.0, NORMAL), ("a", -2.5, NORMAL), ("ab", -2.75, NORMAL), ("aa", -4.0, NORMAL), ("b", -3.5, NORMAL)]
PIECES += [("aaa", -7.0, UNUSED), ("<xy>", 0.0, USER), ("cd", -3.0, NORMAL)]


def _field(number, value):
    """One field of a protobuf message."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return (
        _varint(number << 3 | 2) + _varint(len(value)) + value
        if isinstance(value, bytes)
        else _varint(number << 3) + _varint(value)
    )


def _varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _model(pieces=PIECES, trainer=(), normalizer=()):
    made = b"".join(_field(1, _field(1, name.encode()) + _field(2, score) + _field(3, kind)) for name, score, kind in pieces)
    made += _field(2, b"".join(_field(*each) for each in trainer))
    return made + _field(3, b"".join(_field(*each) for each in normalizer))


def _run(tokenizer, texts):
    run = tf.function(tokenizer.__call__, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    return run(tf.constant(texts, tf.string)).to_list()


def _cut(texts, data, most=1000):
    found = read_sentencepiece(data)
    return _run(Unigram(found.vocabulary, found.spelling, found.spaces, most), texts)


@pytest.fixture(scope="module")
def published(real):
    return (real / "encoders" / "tiny-xlm-roberta" / "sentencepiece.bpe.model").read_bytes()


@pytest.fixture(scope="module")
def charsmap(published):
    at = published.rindex(b"nmt_nfkc") + len(b"nmt_nfkc") + 1  # the field behind the name of the rules
    size, shift = 0, 0
    while True:
        size |= (published[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if published[at - 1] < 128:
            return published[at : at + size]


def _theirs(pieces):
    """The library's tokenizer: `[(piece, score)]`, the unknown one first."""
    return tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0, False))


def _letters():
    """Characters that are graphemes by themselves: of others, the library's normalizer drops what follows the first."""
    alone = [(0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF), (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF), (0xFF9E, 0xFF9F)]
    alone += [(0xE33, 0xE33), (0xEB3, 0xEB3), (ord(MARK), ord(MARK)), (0xD, 0xD)]
    alone += [
        (0xD4E, 0xD4E),
        (0x111C2, 0x111C3),
        (0x1193F, 0x11941),
        (0x11A3A, 0x11A3A),
        (0x11A84, 0x11A89),
        (0x11D46, 0x11D46),
    ]
    codes = (code for code in range(0x110000) if not any(low <= code <= high for low, high in alone))
    return [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Cf", "Mn", "Mc", "Me")]


def _strings(draw, count, some, others):
    def text():
        return "".join(draw.choice(some) if draw.random() < 0.3 else draw.choice(others) for _ in range(draw.randint(1, 40)))

    return [text() for _ in range(count)]


def test_thousands_of_random_strings_have_the_ids_of_the_tokenizers_library(published, charsmap, real, tmp_path):
    """By the `tokenizer.json` that it writes; characters of all of Unicode between pieces of the vocabulary."""
    found = read_sentencepiece(published)
    pieces = [(name, found.vocabulary.pieces.get(name, (0, 0.0))[1]) for name in found.names]
    theirs = _theirs(pieces)
    theirs.normalizer = tokenizers.normalizers.Precompiled(charsmap)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    known = [name.replace(MARK, " ") for name in found.names[3:]]
    texts = _strings(random.Random(0), 4000, _letters(), known)
    texts += [str(text) for text in np.load(real / "encoders" / "minilm.npz")["texts"] if "\r\n" not in str(text)]
    expected = [each.ids for each in theirs.encode_batch(texts)]
    for read in (read_json(ModelFolder(tmp_path)), found):
        assert _run(Unigram(read.vocabulary, read.spelling, read.spaces, 1000), texts) == expected


def test_strings_with_marks_have_the_ids_of_their_longest_sequences(published):
    """The rules by hand, a character at a time, and the library's best way through what comes out."""
    found = read_sentencepiece(published)
    table = found.spelling
    theirs = _theirs([(name, found.vocabulary.pieces.get(name, (0, 0.0))[1]) for name in found.names])
    most = max(map(len, table))

    def spelled(text):
        made, at = "", 0
        while at < len(text):
            length = next((size for size in range(most, 0, -1) if text[at : at + size] in table), 0)
            made += table[text[at : at + length]] if length else text[at]
            at += max(length, 1)
        made = " ".join(part for part in made.split(" ") if part)
        return f" {made}".replace(" ", MARK).rstrip(MARK) if made else ""

    draw = random.Random(1)
    marks = [*"\u0301\u0300\u0308\u0327\u0323\u0345\u1161\u11a8\u1100\u3099\u0e33\u05bc\u09be", "\r\n", MARK, " "]
    texts = _strings(draw, 3000, marks, [*"eaAοωΩ\u1100\uac00かはกש가ᾳ", "\u212b", "ﬁ", "…"])
    assert any(table.get(sequence) for text in texts for sequence in (text[:2], text[:3]) if len(sequence) > 1)
    got = _cut(texts, published)
    assert got == [each.ids for each in theirs.encode_batch([spelled(text) for text in texts])]


def test_the_table_of_characters_is_nfkc(charsmap):
    """But for what the rules say of control characters and blanks."""
    table = read_charsmap(charsmap)
    assert len(table) > 200_000 and max(map(len, table)) == 4
    other = [source for source, target in table.items() if unicodedata.normalize("NFKC", source) != target]
    assert len([source for source in other if unicodedata.category(source[0])[0] not in "CZ"]) < 20
    assert (table["\u00a0"], table["\ufb01"], table["e\u0301"], table["\x07"]) == (" ", "fi", "é", "")


def test_the_best_way_is_taken_and_of_equals_the_one_whose_last_piece_is_longer():
    """Sums by hand: `_a|ab` -5.75 before `_|a|ab`; `_|aa|a` = `_|a|aa`, and `_a|aa` -7 before both; what is in no piece is one id."""
    rows = [[4, 6], [4, 7], [4, 5], [4, 0, 4], [3, 8], [3, 0, 8, 0, 11]]
    assert _cut(["aab", "aaa", " aa  ", "azzz a", "b", "c猫bdcd"], _model()) == rows
    vocabulary = Vocabulary({"a": (1, -1.0), "aa": (2, -1.5), "": (3, 0.0)}, 0, -20.0)
    cut = Unigram(vocabulary, {}, Spaces(prefix=False), 10)
    assert _run(cut, ["aaa", "aaaaa", "", "  "]) == [[1, 2], [1, 2, 2], [], []]


def test_special_and_unused_pieces_are_no_text_and_what_a_user_defined_always_is():
    assert _cut(["<s>", "aaaa", "a<xy>b"], _model()) == [[3, 0], [4, 5, 7], [4, 10, 8]]


@pytest.mark.parametrize(("settings", "made"), [((), [3, 8, 3, 8]), (((4, 0),), [3, 3, 8, 3, 3, 8, 3]), (((3, 0),), [8, 3, 8])])
def test_spaces_are_made_as_the_normalizer_says(settings, made):
    assert _cut([" b  b "], _model(normalizer=settings)) == [made]


def test_ids_of_xlm_r_are_one_further(tmp_path):
    (tmp_path / "m").write_bytes(_model())
    found = read_fairseq(ModelFolder(tmp_path), "m")
    assert _run(Unigram(found.vocabulary, found.spelling, found.spaces, 9), ["b猫"]) == [[4, 9, 3]]
    assert (found.ids["<s>"], found.ids["</s>"], found.ids["cd"], found.size) == (0, 2, 12, 13)
    (tmp_path / "m").write_bytes(_model([PIECES[1], PIECES[0], *PIECES[2:]]))
    with pytest.raises(EncoderError, match="m: the first pieces must be <unk>, <s> and </s>"):
        read_fairseq(ModelFolder(tmp_path), "m")


def test_what_comes_behind_the_most_is_cut_off():
    """Also of a text of a million characters, in words, in one and in none: it takes no longer than the part that is read."""
    texts = ["ab " * 330_000, "ab" * 500_000, "猫" * 1_000_000 + "b", "", " " * 1_000_000 + "b"]
    assert _cut(texts, _model(), most=4) == [[3, 6, 3, 6], [3, 6, 6, 6], [3, 0, 8], [], [3, 8]]


def test_sequences_are_put_from_left_to_right_the_longest_first():
    """Those that overlap in long chains too: what begins one depends on all before."""
    spelling = Spelling({"ab": "X", "abc": "Y", "bc": "Z", "cd": "", "aa": "b"})
    run = tf.function(lambda codes, rows: spelling(codes, rows), autograph=False)
    for text, made in (("abcd", "Yd"), ("bcd", "Zd"), ("ccd", "c"), ("a" * 7 + "b", "bbbX"), ("a" * 1000, "b" * 500), ("", "")):
        found, _ = run(tf.constant(list(map(ord, text)), tf.int32), tf.zeros([len(text)], tf.int32))
        assert "".join(map(chr, found.numpy())) == made
    codes, rows = run(tf.constant(list(map(ord, "abc"))), tf.constant([0, 1, 1]))
    assert "".join(map(chr, codes.numpy())) == "aZ" and rows.numpy().tolist() == [0, 1]


def test_chains_are_followed_to_their_ends():
    jumps = np.array([*range(1, 100), 100, 50, 102, 102], np.int32)
    marks = np.zeros(103, bool)
    marks[[90, 101]] = True
    assert np.flatnonzero(reached(tf.constant(marks), tf.constant(jumps))).tolist() == [*range(50, 103)]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "there are no pieces"),
        (b"not a model", "cut off or damaged, or no SentencePiece model"),
        (_model()[:-3], "cut off or damaged"),
        (_model(trainer=[(3, 2)]), "a SentencePiece model of the kind BPE; known is unigram"),
        (_model(trainer=[(35, 1)]), "byte_fallback is not known here"),
        (_model(PIECES[1:]), "no pieces, or none for what is unknown"),
        (_model([*PIECES, ("x", 0.0, 9)]), "a piece is of no known type"),
        (_model(normalizer=[(2, struct.pack("<I", 400) + b"x" * 20)]), "the table of characters has another size"),
        (_model(normalizer=[(2, struct.pack("<I", 4) + b"\0" * 4 + b"x")]), ""),
        (_field(1, _field(1, b"\xff") + _field(2, 0.0)), "can't decode"),
    ],
)
def test_a_damaged_model_is_told_in_a_line(tmp_path, data, told):
    (tmp_path / "spiece.model").write_bytes(data)
    if not told:  # an empty table
        read_model(ModelFolder(tmp_path), "spiece.model")
        return
    with pytest.raises(EncoderError, match=rf"spiece\.model: cannot be read \(.*{told}") as caught:
        read_model(ModelFolder(tmp_path), "spiece.model")
    assert "\n" not in str(caught.value)


def test_any_damage_is_an_error_or_a_model(published, tmp_path):
    """Bytes that are turned over anywhere: no other exception, and none that runs on."""
    draw = random.Random(0)
    for _ in range(40):
        data = bytearray(_model(normalizer=[(2, struct.pack("<I", 64) + bytes(draw.randrange(256) for _ in range(80)))]))
        for _ in range(draw.randint(0, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "m").write_bytes(data)
        with contextlib.suppress(EncoderError):
            read_model(ModelFolder(tmp_path), "m")


def test_a_piece_that_is_too_long_is_told():
    with pytest.raises(EncoderError, match="the longest piece of the vocabulary has 129 characters; known are 1 to 128"):
        Unigram(Vocabulary({"a" * 129: (1, -1.0)}, 0, -20.0), {}, Spaces(), 10)


def _json(**changes):
    made = {
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], [MARK, -1.0], ["a", -2.0], ["<s>", 0.0]]},
        "normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        "pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always"},
        "added_tokens": [{"content": "<s>"}],
    }
    for name, values in changes.items():
        made[name] = {**made[name], **values} if isinstance(made[name], dict) and isinstance(values, dict) else values
    return made


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"byte_fallback": True}}, "byte_fallback is not known here"),
        ({"model": {"unk_id": None}}, "has no `unk_id`"),
        ({"normalizer": {"type": "NFKD"}}, "unknown normalizer NFKD"),
        ({"normalizer": {"pattern": {"Regex": "x"}}}, "unknown normalizer Replace x"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAA="}}, "the precompiled_charsmap cannot be read"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "must end in a Metaspace"),
        ({"pre_tokenizer": {"prepend_scheme": "never"}}, "puts no space before a text"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "Metaspace"}]}},
            "unknown pre_tokenizer Digits",
        ),
        ({"added_tokens": [{"content": "<new>"}]}, r"tokens were added to the vocabulary \(<new>\)"),
    ],
)
def test_a_tokenizer_file_of_another_kind_is_told_in_a_line(tmp_path, changes, told):
    (tmp_path / "tokenizer.json").write_text(json.dumps(_json(**changes)))
    with pytest.raises(EncoderError, match=rf"tokenizer\.json: .*{told}"):
        read_json(ModelFolder(tmp_path))


@pytest.mark.parametrize(
    "normalizer",
    [
        tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Strip(False, True), tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), MARK)]
        ),
        tokenizers.normalizers.Lowercase(),
    ],
)
def test_spaces_of_a_tokenizer_file_are_made_as_the_library_does(tmp_path, normalizer):
    theirs = _theirs([("<unk>", 0.0), (MARK, -2.0), (f"{MARK}a", -2.5), ("a", -3.0), ("b", -3.0)])
    theirs.normalizer, theirs.pre_tokenizer = normalizer, tokenizers.pre_tokenizers.Metaspace()
    theirs.save(str(tmp_path / "tokenizer.json"))
    found = read_json(ModelFolder(tmp_path))
    texts = ["a", " a", "  a  b ", "b   a   ", "", " ", "x y a"]
    assert _run(Unigram(found.vocabulary, found.spelling, found.spaces, 99), texts) == [
        each.ids for each in theirs.encode_batch(texts)
    ]


def test_a_table_in_base64_is_read(charsmap, tmp_path):
    part = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(_json(normalizer=part)))
    assert read_json(ModelFolder(tmp_path)).spelling == read_charsmap(charsmap)
