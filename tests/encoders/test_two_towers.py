"""CLIP and SigLIP: what the originals answer, one space for texts and images, and what is told of folders that cannot be used."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import tokenizers
from conftest import FAST, run_python
from safetensors.numpy import load_file, save_file
from tokenizers import normalizers, pre_tokenizers

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.sentencepiece_file import read_sentencepiece
from mmtfrs.encoders.tower_tokens import siglip_tokens
from mmtfrs.errors import EncoderError
from mmtfrs.exporting.loaded import LoadedModel
from mmtfrs.models.run import load_run
from mmtfrs.testing import check_encoder
from mmtfrs.training.train import train

KINDS = ("clip", "siglip")
TEXTS = ("a red shoe", "Crème brûlée, it's 5!", "猫 cat")


@pytest.fixture
def copied(real, tmp_path):
    """A copy of a small model that a test may spoil."""

    def copy(kind):
        shutil.copytree(real / "encoders" / f"tiny-{kind}", tmp_path / kind, copy_function=shutil.copyfile)
        (tmp_path / kind).chmod(0o755)
        return tmp_path / kind

    return copy


def _off(found, expected):
    return (np.abs(found - expected).max(axis=1) / np.linalg.norm(expected, axis=1)).max()


@pytest.mark.parametrize("kind", KINDS)
def test_small_models_answer_as_the_originals_do(real, kind):
    """Thirty texts in many scripts and five images from raw bytes, on the host and in the graph that is exported."""
    folder = real / "encoders"
    reference = np.load(folder / f"tiny-{kind}" / "reference.npz")
    media = {
        "text": [str(text).encode() for text in np.load(folder / "minilm.npz")["texts"]],
        "image": [path.read_bytes() for path in sorted((folder / "images").glob("*.png"))],
    }
    spaces = set()
    for modality, some in media.items():
        encoder = encoders.load(modality, f"{kind}:{folder / f'tiny-{kind}'}")
        graph, problems = encoder.encode_serialized(tf.constant(some), ExtractionConfig())
        assert not any(problems.numpy()) and encoder.dim == reference[modality].shape[1]
        assert _off(graph.numpy(), reference[modality]) < 1e-6
        host = encoder.encode(some)[0] if modality == "image" else encoder(tf.constant(some)).numpy()
        assert _off(host, reference[modality]) < 1e-6
        check_encoder(encoder, [medium for medium in some if medium.strip()][:4])
        spaces.add(encoder.space)
    assert len(spaces) == 1 and spaces != {""}


def test_only_encoders_of_one_folder_are_of_one_space(real, copied):
    """A space is that of the weights; a fingerprint is that of all that is read."""
    folder = copied("clip")
    text, image = (encoders.load(modality, f"clip:{folder}") for modality in ("text", "image"))
    again = encoders.load("image", f"clip:{real / 'encoders' / 'tiny-clip'}")
    assert text.fingerprint != image.fingerprint == again.fingerprint and text.space == again.space
    assert encoders.load("text", real / "encoders" / "tiny-bert").space == encoders.load("image", "offline").space == ""
    _json("preprocessor_config.json", resample=2)(folder)
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    for modality, before in (("text", text), ("image", image)):
        changed = encoders.load(modality, f"clip:{folder}")
        assert changed.fingerprint != before.fingerprint and changed.space == before.space
    _weights(lambda arrays: arrays.update({"visual_projection.weight": arrays["visual_projection.weight"] * 2}))(folder)
    for modality, before in (("text", text), ("image", image)):
        changed = encoders.load(modality, f"clip:{folder}")
        assert changed.fingerprint != before.fingerprint and changed.space != before.space


@pytest.mark.long
def test_padding_is_read_unless_the_tokenizer_gives_a_mask(copied):
    """As the published ones, which give `input_ids` alone."""
    folder = copied("siglip")
    masked = encoders.load("text", f"siglip:{folder}")(tf.constant(TEXTS)).numpy()
    _json("tokenizer_config.json", model_input_names=["input_ids"])(folder)
    assert _off(encoders.load("text", f"siglip:{folder}")(tf.constant(TEXTS)).numpy(), masked) > 0.01
    ids, there = siglip_tokens(ModelFolder(folder), 806, 64)(tf.constant(TEXTS))
    assert ids.shape == (3, 64) and there.numpy().all() and (ids.numpy()[:, -1] == 2).all()


@pytest.mark.long
def test_what_a_config_does_not_say_is_as_in_the_originals(copied):
    """The published ones say little: a layer's width that is missing is the original's, which is not that of these weights."""
    folder = copied("siglip")
    for part, told in (("text_config", "text"), ("vision_config", "image")):
        settings = json.loads((folder / "config.json").read_text())[part]
        left = {name: value for name, value in settings.items() if name not in ("layer_norm_eps", "hidden_act")}
        before = encoders.load(told, f"siglip:{folder}")
        _json("config.json", **{part: left})(folder)
        media = tf.constant(TEXTS) if told == "text" else tf.ones([2, 32, 32, 3], tf.uint8)
        np.testing.assert_array_equal(encoders.load(told, f"siglip:{folder}")(media), before(media))
    _json("config.json", text_config={})(folder)
    with pytest.raises(EncoderError, match=r"`text_model\.\S+ has the shape \(32,\), and config\.json says \(768,\)"):
        encoders.load("text", f"siglip:{folder}")


def test_a_tokenizer_file_of_siglip_has_the_ids_of_its_model(copied, real):
    """Made by the `tokenizers` library from the model, with what `SiglipTokenizer` does before written as a normalizer."""
    folder = copied("siglip")
    texts = [str(text) for text in np.load(real / "encoders" / "minilm.npz")["texts"] if "\x00" not in str(text)]
    expected = siglip_tokens(ModelFolder(folder), 806, 64)(tf.constant(texts))
    found = read_sentencepiece((folder / "spiece.model").read_bytes())
    pieces = [(name, found.vocabulary.pieces.get(name, (0, 0.0))[1]) for name in found.names]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0, False))
    punctuation = r"""[!"\#\$%\&'\(\)\*\+,\-\./:;<=>\?@\[\\\]\^_`\{\|\}\~]"""
    blanks = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    before = [normalizers.Lowercase(), normalizers.Replace(tokenizers.Regex(punctuation), ""), blanks, normalizers.Strip()]
    data = (folder / "spiece.model").read_bytes()
    start = data.rindex(b"nmt_nfkc") + 12
    charsmap = normalizers.Precompiled(data[start : start + 240_007])
    made.normalizer = normalizers.Sequence([*before, charsmap])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.save(str(folder / "tokenizer.json"))
    (folder / "spiece.model").unlink()
    for ours, theirs in zip(siglip_tokens(ModelFolder(folder), 806, 64)(tf.constant(texts)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


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


def _without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


_HEAD = "vision_model.head.attention.in_proj_weight"
_BPE = {"model": {"type": "BPE", "vocab": {}, "merges": []}}


@pytest.mark.parametrize(
    ("kind", "modality", "spoil", "told"),
    [
        ("clip", "text", _without("vocab.json"), r"has no tokenizer\.json and no vocab\.json with merges\.txt: copy"),
        ("siglip", "text", _without("spiece.model"), r"has no spiece\.model and no tokenizer\.json: copy"),
        (
            "siglip",
            "text",
            lambda folder: (folder / "spiece.model").write_bytes(b"\x0a\xff"),
            r"spiece\.model: cannot be read \(",
        ),
        ("clip", "text", _json("tokenizer.json", **_BPE), "unknown tokenizer BPE; known is CLIP's"),
        ("clip", "text", lambda folder: (folder / "merges.txt").write_text("t h e\n"), "a merge must be of two pieces"),
        (
            "clip",
            "text",
            lambda folder: (folder / "merges.txt").write_text("t q\n"),
            "the vocabulary has no `tq`, which is merged",
        ),
        ("clip", "text", _json("vocab.json", more=526), "the tokenizer has 527 tokens, and the embedding 526 rows"),
        ("clip", "text", _json("tokenizer_config.json", bos_token="<s>"), "the vocabulary has no `<s>`"),
        (
            "clip",
            "image",
            _json("config.json", model_type="clip_vision"),
            "unknown model_type `clip_vision`; `clip:` takes `clip`",
        ),
        ("siglip", "image", _json("preprocessor_config.json", size={"height": 24, "width": 24}), "makes images of 24 pixels"),
        ("siglip", "image", _weights(lambda arrays: arrays.pop(_HEAD)), f"the weights have no `{_HEAD}`"),
        (
            "siglip",
            "image",
            _weights(lambda arrays: arrays.update({_HEAD: arrays[_HEAD][:9]})),
            rf"`{_HEAD}` has the shape \(9, 32\), and config\.json says \(96, 32\)",
        ),
        (
            "clip",
            "text",
            _weights(lambda arrays: arrays.update(more=np.ones(1))),
            "1 tensors have no place in this network: more",
        ),
        ("clip", "text", _json("config.json", text_config={"num_attention_heads": 5}), "5 heads do not divide a width of 512"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_in_a_line(copied, kind, modality, spoil, told):
    folder = copied(kind)
    spoil(folder)
    with pytest.raises(EncoderError, match=told) as caught:
        encoders.load(modality, f"{kind}:{folder}")
    assert "\n" not in str(caught.value)


def test_siglip_2_is_told(copied):
    folder = copied("siglip")
    _without("spiece.model")(folder)
    _json("tokenizer.json", **_BPE)(folder)
    with pytest.raises(EncoderError, match=r"tokenizer\.json: unknown tokenizer BPE; known is the Unigram of SigLIP"):
        encoders.load("text", f"siglip:{folder}")


def test_names_are_checked_before_anything_is_loaded(real):
    folder = real / "encoders" / "tiny-clip"
    for modality in ("image", "text"):
        encoders.check_name(modality, f"clip:{folder}")
        encoders.check_name(modality, "siglip:hf:google/siglip-base-patch16-224")
        with pytest.raises(EncoderError, match="nowhere: there is no such folder"):
            encoders.check_name(modality, "clip:nowhere")
        with pytest.raises(EncoderError, match=rf"unknown model_type `clip`; .* have a name of their own: `clip:{folder}`"):
            encoders.load(modality, folder)
    with pytest.raises(EncoderError, match="unknown audio encoder `clip:"):
        encoders.check_name("audio", f"clip:{folder}")


def test_a_model_of_the_hub_is_found_in_its_cache(real, tmp_path, monkeypatch):
    """With what its tokenizer needs, which is asked for by name."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--shop--pictures"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    folder = real / "encoders" / "tiny-siglip"
    shutil.copytree(folder, place / "snapshots" / commit, copy_function=shutil.copyfile)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked, download = [], huggingface_hub.snapshot_download
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **more: asked.extend(more["allow_patterns"]) or download(*_, **more)
    )
    text, image = (encoders.load(modality, "siglip:hf:shop/pictures") for modality in ("text", "image"))
    assert text.name == image.name == "siglip:hf:shop/pictures" and text.space == image.space
    assert text.space == encoders.load("text", f"siglip:{folder}").space and "*.model" in asked


_BARE = """
import sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
image = open(sys.argv[2], "rb").read()
answer = model.signatures["embed_candidate"](
    text=tf.constant(["a red shoe", ""]), image=tf.constant([b"", image]), audio=tf.constant([b"", b""])
)
np.save(sys.argv[3], answer["embedding"])
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_keeps_the_names_and_its_export_carries_both_networks(real, tmp_path, kind):
    """Of a process without this library, the same answers to a raw text and a raw image."""
    folder, images = real / "encoders" / f"tiny-{kind}", sorted((real / "encoders" / "images").glob("*.png"))
    catalog = mmtfrs.Catalog.from_dict(
        {"item_id": list("abc"), "text": ["a red shoe", "a rocket", ""], "image": [str(images[0]), "", str(images[1])]}
    )
    name = f"{kind}:{folder}"
    settings = mmtfrs.Config(**FAST).replace(encoders={"text": name, "image": name})
    features = mmtfrs.extract(catalog, settings, store=tmp_path / "store", progress=False)
    split = mmtfrs.Events(["u", "u", "v"], ["a", "b", "a"], [1, 2, 3]).split("none")
    train(settings, catalog, features, split, tmp_path / "run", progress=False)
    assert mmtfrs.Config.read(tmp_path / "run" / "config.yaml").encoders.text == name
    model = load_run(tmp_path / "run")
    version = mmtfrs.export(model, tmp_path / "saved")
    bare = run_python(_BARE, version, images[1], tmp_path / "out.npy")
    assert bare.returncode == 0, bare.stderr
    media = {"text": ["a red shoe", ""], "image": [b"", images[1].read_bytes()], "audio": [b"", b""]}
    inputs = {modality: np.array(some, object) for modality, some in media.items()}
    answer = LoadedModel(version).ask("embed_candidate", inputs)
    assert not b"".join(answer["problem"].ravel())
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), answer["embedding"], atol=1e-5)
    made = {modality: features.items[modality][:] for modality in ("text", "image")}
    rows = {"text": tf.constant([made["text"][0], made["text"][2]]), "image": tf.constant([made["image"][1], made["image"][2]])}
    expected, _ = model.candidate_from_media(rows, tf.constant([[0.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-4)
