"""Text encoders from folders of Hugging Face: what the originals answer, and what is told of folders that cannot be used."""

from __future__ import annotations

import base64
import json
import shutil

import numpy as np
import pytest
from conftest import run_python
from safetensors.numpy import load_file, save_file
from tiny_bert import HEADS, LAYERS, LONGEST, PIECES, WIDTH, write_bert

from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.encoders.sentencepiece_file import read_sentencepiece
from mmtfrs.errors import EncoderError
from mmtfrs.testing import check_encoder


@pytest.fixture
def folder(tmp_path):
    return write_bert(tmp_path)


def _numpy_bert(folder, ids):
    """The network as its paper has it, one text at a time: `[T, WIDTH]`."""
    from math import erf

    arrays = load_file(folder / "model.safetensors")

    def dense(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(1, keepdims=True)
        return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-12) * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    x = arrays["embeddings.word_embeddings.weight"][ids] + arrays["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + arrays["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        heads = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            query, key, value = (dense(x, f"{at}attention.self.{name}")[:, part] for name in ("query", "key", "value"))
            scores = np.exp(query @ key.T / np.sqrt(WIDTH / HEADS))
            heads.append(scores / scores.sum(1, keepdims=True) @ value)
        x = norm(x + dense(np.concatenate(heads, 1), f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        inner = dense(x, f"{at}intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        x = norm(x + dense(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
    return x


def test_a_folder_is_the_network_of_the_paper(folder):
    """The mean over tokens; padding, by a longer text in the batch, changes nothing; what is too long is cut off."""
    encoder = encoders.load("text", folder)
    states = _numpy_bert(folder, [2, 4, 7, 6, 3])
    alone = encoder(tf.constant(["Red shoes"])).numpy()[0]
    np.testing.assert_allclose(alone, states.mean(0), atol=1e-5)
    beside, long = encoder(tf.constant(["red SHOES", "a " * 50])).numpy()
    np.testing.assert_allclose(beside, alone, atol=1e-6)
    np.testing.assert_allclose(long, _numpy_bert(folder, [2, *[8] * (LONGEST - 2), 3]).mean(0), atol=1e-5)
    assert encoder.dim == WIDTH and encoder.name == str(folder)


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda x: x[0]),
        ({"pooling_mode_max_tokens": True}, lambda x: x.max(0)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, lambda x: np.concatenate([x[0], x.mean(0)])),
    ],
)
@pytest.mark.parametrize("normalized", [False, True])
def test_pooling_is_that_of_the_modules(folder, settings, made, normalized):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **settings}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * normalized
    modules = [{"idx": 0, "path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps(modules))
    expected = made(_numpy_bert(folder, [2, 4, 5, 4, 5, 3]))
    expected /= np.linalg.norm(expected) if normalized else 1.0
    np.testing.assert_allclose(encoders.load("text", folder)(tf.constant(["red blue red blue red"]))[0], expected, atol=1e-5)


def test_weights_may_lie_in_several_files(folder):
    expected = encoders.load("text", folder)(tf.constant(["red"])).numpy()
    arrays = load_file(folder / "model.safetensors")
    names = sorted(arrays)
    for number, some in enumerate((names[::2], names[1::2])):
        save_file({f"bert.{name}": arrays[name] for name in some}, folder / f"model-{number}.safetensors")
    index = {"weight_map": {f"bert.{name}": f"model-{number % 2}.safetensors" for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(encoders.load("text", folder)(tf.constant(["red"])), expected)


def _weights(change):
    def spoil(folder):
        arrays = load_file(folder / "model.safetensors")
        change(arrays)
        save_file(arrays, folder / "model.safetensors")

    return spoil


def _json(name, **values):
    def spoil(folder):
        known = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps({**known, **values}))

    return spoil


_TOKENIZER = {
    "model": {"type": "WordPiece", "vocab": {piece: row for row, piece in enumerate(PIECES)}},
    "normalizer": {"type": "BertNormalizer", "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}
_ADDED = [{"content": "[SEP]"}, {"content": "<new>"}]
_KEY, _BIAS = "encoder.layer.1.attention.self.key.weight", "encoder.layer.0.output.dense.bias"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json: is no mapping"),
        (_json("config.json", vocab_size=None), "is not as Hugging Face writes it"),
        (_json("config.json", num_attention_heads=3), "3 heads do not divide a width of 8"),
        (_json("tokenizer.json", normalizer={}), r"is not as Hugging Face writes it \(KeyError: 'model'\)"),
        (lambda folder: (folder / "vocab.txt").write_bytes(b"\xff"), r"vocab\.txt: cannot be read"),
        (_json("config.json", model_type="gpt2"), r"unknown model_type `gpt2`; text encoders are bert, distilbert, mpnet"),
        (_json("config.json", hidden_act="swish"), "unknown activation `swish`; known are gelu"),
        (_json("config.json", hidden_size=16), r"has the shape \(9, 8\), and config\.json says \(9, 16\)"),
        (_weights(lambda arrays: arrays.pop(_KEY)), f"the weights have no `{_KEY}`"),
        (_weights(lambda arrays: arrays.update({_BIAS: arrays[_BIAS][:5]})), rf"`{_BIAS}` has the shape \(5,\)"),
        (
            _weights(lambda arrays: arrays.update({"encoder.layer.2.x": arrays[_BIAS]})),
            "1 tensors have no place in this network: enc",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
            "not a readable safetensors file.*Download it again",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no model\.safetensors\."),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            'has pytorch_model.bin, and no model.safetensors. Convert it where PyTorch is: python -c "from transformers import',
        ),
        (
            lambda folder: (folder / "vocab.txt").unlink(),
            r"has no tokenizer\.json and no vocab\.txt or sentencepiece\.bpe\.model: copy the tokenizer's files",
        ),
        (
            lambda folder: (folder / "vocab.txt").write_text("\n".join([*PIECES, "more"])),
            "the tokenizer has 10 tokens, and the embedding 9 rows",
        ),
        (lambda folder: (folder / "vocab.txt").write_text("a\nb\n"), r"the vocabulary has no `\[CLS\]`"),
        (_json("tokenizer.json", **_TOKENIZER, added_tokens=_ADDED), r"tokens were added to the vocabulary \(<new>\)"),
        (
            _json("tokenizer.json", **{**_TOKENIZER, "model": {"type": "BPE", "vocab": {}}}),
            "unknown tokenizer BPE / BertNormalizer",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_in_a_line(folder, spoil, told):
    spoil(folder)
    with pytest.raises(EncoderError, match=told) as caught:
        encoders.load("text", folder)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_read_do_not_change_the_fingerprint(folder):
    before = encoders.load("text", folder).fingerprint
    (folder / "README.md").write_text("more")
    assert encoders.load("text", folder).fingerprint == before
    tokens = {"unk_token": {"__type": "AddedToken", "content": "[UNK]"}, "cls_token": "[CLS]"}
    _json("tokenizer_config.json", **tokens)(folder)
    assert encoders.load("text", folder).fingerprint != before


def test_a_cased_tokenizer_behind_small_letters(folder):
    """sentence-transformers makes texts small before the tokenizer, where it is told to."""
    expected = encoders.load("text", folder)(tf.constant(["red shoes"])).numpy()
    _json("tokenizer_config.json", do_lower_case=False)(folder)
    unknown = encoders.load("text", folder)(tf.constant(["RED shoes"])).numpy()
    _json("sentence_bert_config.json", max_seq_length=12, do_lower_case=True)(folder)
    np.testing.assert_array_equal(encoders.load("text", folder)(tf.constant(["RED shoes"])), expected)
    assert np.abs(unknown - expected).max() > 1e-3


def test_a_model_of_the_hub_is_found_in_its_cache(folder, tmp_path, monkeypatch):
    """As `huggingface_hub` lays it; what is not there cannot be downloaded here, and says what to do."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "hub" / "models--shop--words"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit, ignore=lambda *_: ["hub"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as its variable of that name does
    expected = encoders.load("text", folder)(tf.constant(["red shoes"]))
    for name in ("hf:shop/words", f"hf:shop/words@{commit}"):
        encoder = encoders.load("text", name)
        np.testing.assert_array_equal(encoder(tf.constant(["red shoes"])), expected)
        assert encoder.name == name
    with pytest.raises(EncoderError, match=r"hf:shop/other could not be downloaded from huggingface\.co .* give its folder"):
        encoders.load("text", "hf:shop/other")


def test_a_tokenizer_file_is_taken_before_a_vocabulary(folder):
    expected = encoders.load("text", folder)(tf.constant(["red shoes"])).numpy()
    (folder / "vocab.txt").unlink()
    _json("tokenizer.json", **_TOKENIZER)(folder)
    np.testing.assert_array_equal(encoders.load("text", folder)(tf.constant(["red shoes"])), expected)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-distilbert", "tiny-mpnet", "tiny-xlm-roberta"])
def test_small_models_answer_as_the_originals_do(real, name):
    texts = [str(text) for text in np.load(real / "encoders" / "minilm.npz")["texts"]]
    expected = np.load(real / "encoders" / name / "reference.npz")["mean"]
    _close(encoders.load("text", real / "encoders" / name), texts, expected)


@pytest.mark.long
def test_a_tokenizer_of_many_languages_comes_in_either_file(real, tmp_path):
    """As SentencePiece or as the `tokenizers` library writes it: the same features, also out of an export."""
    shutil.copytree(real / "encoders" / "tiny-xlm-roberta", tmp_path / "m", copy_function=shutil.copyfile)
    (tmp_path / "m").chmod(0o755)
    texts = [text for text in map(str, np.load(real / "encoders" / "minilm.npz")["texts"]) if text.strip()]
    before = encoders.load("text", tmp_path / "m")
    check_encoder(before, texts[:4])
    data = (tmp_path / "m" / "sentencepiece.bpe.model").read_bytes()
    found, start = read_sentencepiece(data), data.rindex(b"nmt_nfkc") + 12
    pieces = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    pieces += [[name, found.vocabulary.pieces[name][1]] for name in found.names[3:]] + [["<mask>", 0.0]]
    made = {
        "added_tokens": [{"content": name} for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data[start : start + 240_007]).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace"}]},
        "post_processor": {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2]},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces},
    }
    _json("tokenizer.json", **made)(tmp_path / "m")
    (tmp_path / "m" / "sentencepiece.bpe.model").unlink()
    after = encoders.load("text", tmp_path / "m")
    np.testing.assert_array_equal(after(tf.constant(texts)), before(tf.constant(texts)))
    assert after.fingerprint != before.fingerprint
    made["model"]["vocab"] = [*pieces, ["more", -9.0]]
    _json("tokenizer.json", **made)(tmp_path / "m")
    with pytest.raises(EncoderError, match="the tokenizer has 809 tokens, and the embedding 808 rows"):
        encoders.load("text", tmp_path / "m")
    made["model"]["vocab"] = [piece for piece in pieces if piece[0] != "</s>"]
    made["added_tokens"] = []
    _json("tokenizer.json", **made)(tmp_path / "m")
    with pytest.raises(EncoderError, match="the vocabulary has no `</s>`"):
        encoders.load("text", tmp_path / "m")


@pytest.fixture(scope="module")
def minilm(real_encoders):
    return encoders.load("text", "minilm")


def test_minilm_answers_as_the_original_does(minilm, real):
    reference = np.load(real / "encoders" / "minilm.npz")
    _close(minilm, [str(text) for text in reference["texts"]], reference["embeddings"])


def _close(encoder, texts, expected):
    """But for the text that spells special tokens, which is plain text here."""
    kept = [row for row, text in enumerate(texts) if "[CLS]" not in text]
    found = encoder(tf.constant(texts)).numpy()[kept]
    expected = expected[kept]
    norms = np.linalg.norm(expected, axis=1)
    assert (np.abs(found - expected).max(axis=1) / norms).max() < 1e-5
    assert ((found * expected).sum(axis=1) / norms / np.linalg.norm(found, axis=1)).min() > 0.99999
    assert len(kept) == len(texts) - 1


def test_texts_that_mean_alike_are_near_each_other(minilm):
    asked, *items = minilm(
        tf.constant(["a rocket near the comet", "spacecraft beside a shooting star", "noodle soup", "a red dress"])
    )
    assert np.argmax([float(tf.tensordot(asked, item, 1)) for item in items]) == 0


_BARE = """
import sys
import numpy as np, tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
np.save(sys.argv[2], module.encode(tf.constant(["Red shoes", "blue", "", "ürgh 猫"])))
"""


@pytest.mark.long
def test_a_process_without_this_library_runs_the_whole_of_it(folder, tmp_path):
    """Tokenizer and network are stock operations and variables."""
    encoder = encoders.load("text", folder)
    module = tf.Module()
    module.kept = encoder.trackables
    module.encode = tf.function(encoder, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path / "saved"))
    run_python(_BARE, tmp_path / "saved", tmp_path / "out.npy")
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), encoder(tf.constant(["Red shoes", "blue", "", "ürgh 猫"])), atol=1e-6
    )
    shutil.rmtree(tmp_path / "saved")
