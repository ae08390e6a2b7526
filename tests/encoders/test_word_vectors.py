"""Word vectors: files of each format, whole and damaged, and means of their rows by hand."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FAST

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.encoders.vector_files import read_vectors
from mmtfrs.errors import EncoderError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.exporting.refresh import refresh
from mmtfrs.exporting.request import Query
from mmtfrs.testing import check_encoder

WORDS = ["the", "red", "shoe", "sea", "été", "x1", "don't"]
VECTORS = np.random.default_rng(3).normal(size=(7, 4)).astype(np.float32)
TEXTS = ["The RED shoe", "the sea, the sea!", "Été x1", "unheard of"]


def write(path, kind, words=WORDS, vectors=VECTORS):
    rows = list(zip(words, vectors, strict=True))
    header = f"{len(rows)} {vectors.shape[1]}\n".encode() if kind != "glove" else b""
    if kind.startswith("binary"):
        end = b"\n" if kind == "binary lines" else b""
        body = b"".join(word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in rows)
    else:
        body = "".join(f"{word} {' '.join(map(repr, row.tolist()))}\n" for word, row in rows).encode()
    path.write_bytes(header + body)
    return path


@pytest.mark.parametrize("kind", ["glove", "text", "binary", "binary lines"])
def test_every_format_gives_the_same(tmp_path, kind):
    words, vectors = read_vectors(write(tmp_path / "v", kind))
    assert [word.decode() for word in words] == WORDS and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, VECTORS)


def test_odd_rows(tmp_path):
    (tmp_path / "v").write_bytes(b"a 1 2\n\n. . . 3 4\nb\t5\t6\na 7 8\n\xff\xfe 9 -1e-3 \r\nlast 1 1")
    words, vectors = read_vectors(tmp_path / "v")
    assert words == [b"a", b". . .", b"b", b"\xff\xfe", b"last"], "the first of two counts"
    np.testing.assert_allclose(vectors, [[1, 2], [3, 4], [5, 6], [9, -1e-3], [1, 1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 must be `word v1 v2 ...` or `count dim`"),
        (b"alone\n", "line 1 must be"),
        (b"a 1 2\nb 1\n", "line 2 must be a word and 2 numbers, as line 1 says. Received: 2 fields, b'b 1"),
        (b"a 1 2\nb 1 2 3\n", "line 2 must be a word and 2 numbers, as line 1 says. Received: 4 fields"),
        (b"a 1 2\nb 1 2x\n", "line 2 must be a word and 2 numbers"),
        (b"a 1 2\n 1 2\n", "line 2 must be a word and 2 numbers"),
        (b"a 1 2\nb 1 nan\n", "line 2: numbers must be finite float32"),
        (b"a 1 2\nb 1 1e99\n", "line 2: numbers must be finite float32"),
        (b"a 1 2\nb " + b"1 " * 600_000, "line 2 is longer than 1048576 bytes"),
        (b"3 2\na 1.25 2\nb 1.25 2\n", r"is cut short: line 1 says 3 words. Received: 2\."),
        (b"1 2\na 1 2\nb 1 2\n", "line 1 says 1 words; line 3 is one more"),
        (b"999999999 300\na 1 2\n", "is cut short: line 1 says 999999999 words of 300 numbers, which are .* Received: 6 bytes"),
        (b"0 3\n", "is cut short"),
        (b"\x1f\x8b\x08\0\0\0", r"packed \(gzip\). Unpack it first"),
    ],
)
def test_damaged_text(tmp_path, content, message):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(EncoderError, match=message):
        read_vectors(tmp_path / "v")


def test_damaged_binary(tmp_path):
    whole = write(tmp_path / "v", "binary").read_bytes()
    for cut in (1, 5, 17, 40):
        (tmp_path / "v").write_bytes(whole[:-cut])
        with pytest.raises(EncoderError, match=r"is cut short|word 7 of 7 cannot be read: the file ends within it"):
            read_vectors(tmp_path / "v")
    (tmp_path / "v").write_bytes(whole + b"more")
    with pytest.raises(EncoderError, match="line 1 says 7 words; there are 4 bytes behind them"):
        read_vectors(tmp_path / "v")
    broken = np.where(np.arange(7)[:, None] == 2, np.nan, VECTORS).astype(np.float32)
    with pytest.raises(EncoderError, match="word 3 of 7: numbers must be finite"):
        read_vectors(write(tmp_path / "v", "binary", vectors=broken))
    with pytest.raises(EncoderError, match="cannot be read"):
        read_vectors(tmp_path / "nothing")


def _extracted(tmp_path, path, texts=TEXTS):
    catalog = mmtfrs.Catalog.from_dict({"item_id": [f"i{n}" for n in range(len(texts))], "text": texts})
    config = mmtfrs.Config(encoders={"text": f"vectors:{path}"})
    return mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)


def _idf(*documents, count):
    return np.log((1 + count) / (1 + np.array(documents))) + 1


def test_means_by_tfidf(tmp_path):
    features = _extracted(tmp_path, write(tmp_path / "v", "binary"))
    found = features.items["text"]
    assert found.present.tolist() == [True, True, True, False]
    assert "none of its words is in the file of word vectors" in features.rejects[0].reason
    the, red, shoe, sea, ete, x1 = _idf(2, 1, 1, 1, 1, 1, count=4)
    expected = [
        np.average(VECTORS[[0, 1, 2]], axis=0, weights=[the, red, shoe]),
        np.average(VECTORS[[0, 3]], axis=0, weights=[2 * the, 2 * sea]),
        np.average(VECTORS[[4, 5]], axis=0, weights=[ete, x1]),
    ]
    np.testing.assert_allclose(found[:3], expected, atol=1e-6)
    encoder = encoders.load("text", features.encoders["text"].name)  # out of the store
    assert encoder.fingerprint == features.encoders["text"].fingerprint
    check_encoder(encoder, TEXTS[:3])
    _, problems = encoder.encode_serialized(tf.constant(["the sea", "unheard"]), mmtfrs.Config().extraction)
    assert problems.numpy().tolist() == [b"", b"text: none of its words is in the file of word vectors"]
    write(tmp_path / "v", "binary", vectors=VECTORS + 1)
    with pytest.raises(EncoderError, match="its word vectors, .*, are other ones"):
        encoders.load("text", encoder.name)


def test_case_counts_where_the_file_has_it(tmp_path):
    path = write(tmp_path / "v", "text", ["Shoe", "shoe"], VECTORS[:2])
    found = _extracted(tmp_path, path, ["Shoe", "shoe", "SHOE"]).items["text"]
    np.testing.assert_allclose(found[:2], VECTORS[:2], atol=1e-6)
    assert found.present.tolist() == [True, True, False]


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(EncoderError, match="has a vector for no word of the catalog's 1 texts. Is it of another language"):
        _extracted(tmp_path, write(tmp_path / "v", "glove"), ["rien du tout"])
    with pytest.raises(EncoderError, match="there is no such weights file"):
        _extracted(tmp_path, tmp_path / "nothing.txt")
    with pytest.raises(EncoderError, match="this is no file of the weights of word vectors"):
        encoders.load("text", f"vectors:{tmp_path / 'v'}")
    with pytest.raises(EncoderError, match="unknown text encoder `vectors`"):
        encoders.load("text", "vectors")


@pytest.mark.long
def test_an_export_knows_the_words_and_a_refresh_keeps_the_weights(tmp_path):
    path = write(tmp_path / "v.txt", "glove")
    catalog = mmtfrs.Catalog.from_dict({"item_id": list("abcd"), "text": TEXTS})
    config = mmtfrs.Config(encoders={"text": f"vectors:{path}"}, **FAST).replace(model={"modalities": ("text",)})
    features = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    model = mmtfrs.TwoTower(config, catalog, features, mmtfrs.Events(["u", "u", "v", "v"], list("abcd"), [1, 2, 3, 4]))
    mmtfrs.export(model, tmp_path / "m")
    more = mmtfrs.Catalog.from_dict({"item_id": list("abcde"), "text": [*TEXTS, "the red sea"]})
    done = refresh(tmp_path / "m", more, tmp_path / "store", progress=False)
    assert (done.added, done.encoded) == (1, 1), "weights fitted anew would have encoded all"
    path.unlink()
    loaded = LoadedModel(tmp_path / "m")
    assert loaded.recommend(Query(text="RED sea the"))[0][0] == "e"
    with pytest.raises(mmtfrs.Error, match="text: none of its words"):
        loaded.recommend(Query(text="unheard of"))
