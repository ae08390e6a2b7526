"""What a normalizer makes of each character, as tables that a graph looks up.

BERT's: each code point becomes none, one or several. Control characters go, blanks become spaces, ideographs get spaces around
them, accents are taken off (NFD without nonspacing marks) and letters made small. All of it is a function of the single
character; a space is an empty piece, punctuation a piece of its own.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmtfrs._keras import tf

_PAGE = 256
_PLANES = 0x110000
_LETTER, SPACE, PUNCTUATION = range(3)  # kinds of what comes out
_BLANKS = frozenset("\t\n\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(code) for code in range(0x2000, 0x200B)}
# Unicode's white space.
BLANKS = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_IDEOGRAPHS = (  # as BERT has them
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF)),
    *((0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
# Marks, signs and punctuation that came to Unicode after its version 8, which the original has still: to it they are letters.
_YOUNG = (
    "61d 7fd 890-891 898-89f 8ca-8e2 9fd-9fe a76 afa-aff b55 c04 c3c c77 c84 d00 d3b-d3c d81 eba ece 180f "
    "1885-1886 1abf-1ace 1b7d-1b7e 1df6-1dfb 2e43-2e4f 2e52-2e5d a82c a8c5 a8ff a9bd 10d24-10d27 10eab-10ead "
    "10efd-10eff 10f46-10f50 10f55-10f59 10f82-10f89 11070 11073-11074 110c2 110cd 111c9 111cf 1123e 11241 1133b "
    "11438-1143f 11442-11444 11446 1144b-1144f 1145a-1145b 1145d-1145e 11660-1166c 116b9 1182f-11837 11839-1183b "
    "1193b-1193c 1193e 11943-11946 119d4-119d7 119da-119db 119e0 119e2 11a01-11a0a 11a33-11a38 11a3b-11a47 "
    "11a51-11a56 11a59-11a5b 11a8a-11a96 11a98-11a9c 11a9e-11aa2 11b00-11b09 11c30-11c36 11c38-11c3d 11c3f "
    "11c41-11c45 11c70-11c71 11c92-11ca7 11caa-11cb0 11cb2-11cb3 11cb5-11cb6 11d31-11d36 11d3a 11d3c-11d3d "
    "11d3f-11d45 11d47 11d90-11d91 11d95 11d97 11ef3-11ef4 11ef7-11ef8 11f00-11f01 11f36-11f3a 11f40 11f42-11f4f "
    "11fff 12ff1-12ff2 13430-13440 13447-13455 16e97-16e9a 16f4f 16fe2 16fe4 1cf00-1cf2d 1cf30-1cf46 1e000-1e006 "
    "1e008-1e018 1e01b-1e021 1e023-1e024 1e026-1e02a 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1e944-1e94a "
    "1e95e-1e95f "
)
_ONCE_MARKS, _ONCE_PUNCTUATION = "\u1734", "\u166d\U000111c9"  # of version 8, and something else now


class Characters(NamedTuple):
    """Tables over code points: each becomes `starts[n] : starts[n + 1]` of `codes`, with `n = pages[code // 256] + code % 256`.

    Attributes:
        pages: `[4352] int32`; pages that are the same are kept once.
        starts: `[n + 1] int32`.
        codes, kinds: `[m] int32`, of what comes out, one after the other; a code of -1 is the code point itself.
    """

    pages: np.ndarray | tf.Tensor
    starts: np.ndarray | tf.Tensor
    codes: np.ndarray | tf.Tensor
    kinds: np.ndarray | tf.Tensor

    def normalize(self, points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`[C] int32` code points -> `(codes [D], kinds [D], of which of the C each came [D])`."""
        place = tf.gather(self.pages, points // _PAGE) + points % _PAGE
        starts = tf.gather(self.starts, place)
        counts = tf.gather(self.starts, place + 1) - starts
        source = tf.repeat(tf.range(tf.size(points)), counts)
        within = tf.range(tf.size(source)) - tf.gather(tf.cumsum(counts, exclusive=True), source)
        found = tf.gather(starts, source) + within
        codes = tf.gather(self.codes, found)
        return tf.where(codes < 0, tf.gather(points, source), codes), tf.gather(self.kinds, found), source


def make_characters(
    one: Callable[[str], str], kind: Callable[[str], int], key: Callable[[int, list[str]], tuple]
) -> Characters:
    """Tables of a function of a single character.

    Args:
        one: what is made of a character.
        kind: of a character that comes out.
        key: of a page's first code and its characters; the same for pages of which the same is made.
    """
    pages: dict[tuple, int] = {}
    page_of, starts, codes, kinds = [], [0], [], []
    for first in range(0, _PLANES, _PAGE):
        letters = [chr(code) for code in range(first, first + _PAGE)]
        name = key(first, letters)
        if name not in pages:
            pages[name] = len(starts) - 1
            for letter in letters:
                text = one(letter)
                codes += [-1 if each == letter else ord(each) for each in text]
                kinds += [kind(each) for each in text]
                starts.append(len(codes))
        page_of.append(pages[name])
    return Characters(*(np.array(values, np.int32) for values in (page_of, starts, codes, kinds)))


def read_characters(texts: tf.Tensor, characters: Characters | None) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B] string`, valid UTF-8, -> `(code points [C], their texts [C])`, int32: what tables make of them, if there are any."""
    points = tf.strings.unicode_decode(texts, "UTF-8")
    codes, rows = points.flat_values, tf.cast(points.value_rowids(), tf.int32)
    if characters is None:
        return codes, rows
    codes, _, source = characters.normalize(codes)
    return codes, tf.gather(rows, source)


@functools.cache
def bert_characters(lowercase: bool = True, strip_accents: bool = True, ideographs: bool = True) -> Characters:
    """The tables of one normalizer, made once a process.

    Args:
        lowercase, strip_accents: whether letters are made small, and accents taken off.
        ideographs: whether each is a word of its own.

    Reference: the `BertNormalizer` and `BertPreTokenizer` of Hugging Face's tokenizers 0.22; a test holds it to them.
    """
    return make_characters(lambda letter: _one(letter, lowercase, strip_accents, ideographs), _kind, _page_key)


@functools.cache
def small_characters(blanks: str = "", dropped: str = "") -> Characters:
    """The tables that make letters small, one by one, and of some characters a space or nothing."""

    def one(letter: str) -> str:
        return " " if letter in blanks else "" if letter in dropped else letter.lower()

    def key(first: int, letters: list[str]) -> tuple:
        return (first,) if any(one(letter) != letter for letter in letters) else ()

    return make_characters(one, lambda _: _LETTER, key)


def _page_key(first: int, letters: list[str]) -> tuple:
    """The same for pages of which the same is made: most hold letters, or nothing, that no normalizer changes."""
    text = "".join(letters)
    if first < 0x3100 or unicodedata.normalize("NFD", text) != text or text.lower() != text or not _young().isdisjoint(letters):
        return (first,)
    parts = [(max(low - first, 0), high - first) for low, high in _IDEOGRAPHS if low < first + _PAGE and high >= first]
    parts = [(low, min(high, _PAGE - 1)) for low, high in parts]
    kinds = "".join(map(unicodedata.category, letters))
    return (kinds, *parts, "\ufffd" in letters)


@functools.cache
def _young() -> frozenset[str]:
    ends = [part.partition("-") for part in _YOUNG.split()]
    return frozenset(chr(code) for low, _, high in ends for code in range(int(low, 16), int(high or low, 16) + 1))


def _category(letter: str) -> str:
    """Of Unicode 8, as far as it matters here."""
    if letter in _ONCE_PUNCTUATION:
        return "Po"
    if letter in _ONCE_MARKS:
        return "Mn"
    return "Lo" if letter in _young() else unicodedata.category(letter)


def _one(letter: str, lowercase: bool, strip_accents: bool, ideographs: bool) -> str:
    if letter in _BLANKS:
        return " "
    if letter == "\ufffd" or _category(letter) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    made = letter
    if strip_accents:
        made = "".join(part for part in unicodedata.normalize("NFD", made) if _category(part) != "Mn")
    if lowercase:
        made = "".join(part.lower() for part in made)
    alone = ideographs and any(low <= ord(letter) <= high for low, high in _IDEOGRAPHS)
    return f" {made} " if alone else made


def _kind(letter: str) -> int:
    if letter in _BLANKS:
        return SPACE
    ascii_mark = letter < "\x80" and not letter.isalnum()
    return PUNCTUATION if ascii_mark or _category(letter)[0] == "P" else _LETTER
