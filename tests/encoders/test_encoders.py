"""Named, local and offline encoders: what they give, and what they say when they cannot."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders.applications import NETWORKS, _efficientnet_correction, load_application
from mmtfrs.errors import ConfigError, EncoderError
from mmtfrs.testing import check_encoder


def _pictures(count=3):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


def test_names_and_sizes():
    assert {"vgg16", "vgg19", "efficientnetv2b0", "efficientnetv2l"} < set(NETWORKS)
    assert [NETWORKS[f"efficientnetb{n}"][2] for n in range(8)] == [224, 240, 260, 300, 380, 456, 528, 600]
    for module, name, _ in NETWORKS.values():
        assert hasattr(keras.applications, name) and hasattr(getattr(keras.applications, module), "preprocess_input")


@pytest.mark.long
@pytest.mark.parametrize(("name", "dim"), [("vgg16", 512), ("efficientnetb0", 1280), ("efficientnetv2b0", 1280)])
def test_each_network_preprocesses_as_its_own(name, dim):
    encoder = encoders.load("image", f"{name}:random")
    features, present = encoder.encode([*_pictures(), b"no image", None, ""])
    assert features.shape == (6, dim) and present.tolist() == [True] * 3 + [False] * 3
    # The oracle: the same network and preprocess_input of keras.applications, on images that Pillow resized.
    module = getattr(keras.applications, NETWORKS[name][0])
    keras.utils.set_random_seed(0)
    model = getattr(module, NETWORKS[name][1])(include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3))
    pictures = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BILINEAR), np.float32)
            for data in _pictures()
        ]
    )
    expected = model(module.preprocess_input(pictures.copy()), training=False).numpy()
    np.testing.assert_allclose(features[:3], expected, atol=1e-4, rtol=1e-4)
    graph = encoder.encode_serialized(tf.constant(_pictures()), ExtractionConfig())[0].numpy()
    np.testing.assert_allclose(graph, features[:3], atol=0.02 * np.abs(features).max())


@pytest.mark.slow
def test_local_weights_file_by_its_name(tmp_path):
    model = keras.applications.EfficientNetB0(include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3))
    path = tmp_path / "efficientnetb0_notop.h5"
    model.save_weights(path)
    encoder = encoders.load("image", path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    expected = model(pictures.astype(np.float32), training=False).numpy()
    np.testing.assert_allclose(encoder(tf.constant(pictures)).numpy(), expected, atol=1e-4, rtol=1e-4)
    path.rename(tmp_path / "mine.h5")
    with pytest.raises(EncoderError, match="weights without a model. Write NAME:"):
        encoders.load("image", tmp_path / "mine.h5")
    assert encoders.load("image", f"efficientnetb0:{tmp_path / 'mine.h5'}").fingerprint == encoder.fingerprint
    with pytest.raises(EncoderError, match="these weights do not fit vgg16"):
        encoders.load("image", f"vgg16:{tmp_path / 'mine.h5'}")


def test_published_efficientnet_weights_get_their_missing_layer():
    """keras.applications divides by sqrt(std) once more for weights="imagenet"; a local copy must match."""
    inputs = keras.Input((8, 8, 3))
    mean, stddev = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = keras.layers.Rescaling(1 / 255.0)(inputs)
    local = keras.layers.Normalization(mean=mean, variance=stddev)(scaled)
    published = keras.layers.Rescaling((1 / np.sqrt(stddev)).tolist())(local)
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    model = keras.Model(inputs, local)
    # A normalization given as arguments has no weights; what a checkpoint restores is these attributes.
    corrected = model(_efficientnet_correction(model)(pictures)).numpy()
    np.testing.assert_allclose(corrected, keras.Model(inputs, published)(pictures).numpy(), atol=1e-5)
    plain = keras.Model(inputs, keras.layers.Normalization(mean=mean, variance=stddev**2)(scaled))
    np.testing.assert_array_equal(_efficientnet_correction(plain)(pictures), pictures)


def test_whole_keras_model(tmp_path):
    model = keras.Sequential([keras.layers.Input((32, 32, 3)), keras.layers.Conv2D(7, 3), keras.layers.ReLU()])
    model.save(tmp_path / "mine.keras")
    encoder = encoders.load("image", tmp_path / "mine.keras")
    assert (encoder.dim, encoder.size) == (7, 32)
    with pytest.raises(EncoderError, match=r"must take \[B, H, W, 3\]"):
        keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(2)]).save(tmp_path / "flat.keras")
        encoders.load("image", tmp_path / "flat.keras")


@pytest.mark.slow
def test_fingerprint_changes_with_the_weights():
    first, again, other = (load_application("efficientnetb0", "random", seed).fingerprint for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modality", "name", "handle"),
    [
        ("image", "efficientnetb0", "efficientnetb0"),
        ("text", "use", "universal-sentence-encoder/4"),
        ("audio", "yamnet", "storage.googleapis.com/audioset/yamnet.h5"),
        ("audio", "https://tfhub.dev/google/yamnet/1", "https://tfhub.dev/google/yamnet/1"),
    ],
)
def test_a_failed_download_names_handle_and_alternative(modality, name, handle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there: no test reaches the network
    with pytest.raises(EncoderError) as caught:
        encoders.load(modality, name)
    text = str(caught.value)
    assert handle in text and "could not be downloaded" in text
    assert f"--{modality}-encoder PATH" in text and "`offline`" in text
    assert capsys.readouterr().out == ""  # standard output belongs to results


@pytest.mark.parametrize(
    ("modality", "name", "message"),
    [
        ("image", "efficientnetb00", r"unknown image encoder `efficientnetb00`.*Did you mean `efficientnetb0`"),
        ("text", "./nowhere", "neither a known name nor an existing path"),
        ("audio", "yamnett", "Did you mean `yamnet`"),
        ("smell", "x", "`modality` must be one of image, text, audio. Received: 'smell'."),
    ],
)
def test_unknown_names(modality, name, message):
    with pytest.raises(EncoderError, match=message):
        encoders.load(modality, name)


def vocabulary_model(folder):
    """A text SavedModel with a vocabulary file among its assets, as real encoders have."""
    words = folder / "words.txt"
    folder.mkdir(parents=True, exist_ok=True)
    words.write_text("rocket\ncomet\nharbour\nbutter\n")

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.file = tf.saved_model.Asset(str(words))
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(
                    self.file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
                ),
                4,
            )
            self.vectors = tf.Variable(np.random.RandomState(0).normal(size=(5, 512)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            rows = self.table.lookup(tf.strings.split(texts).to_tensor(""))
            return tf.reduce_mean(tf.gather(self.vectors, rows), axis=1)

    model = Model()
    tf.saved_model.save(model, str(folder / "model"))
    words.unlink()
    return folder / "model"


def test_local_text_module(tmp_path):
    path = vocabulary_model(tmp_path / "t")
    encoder = encoders.load("text", path)
    features, present = encoder.encode(["rocket", "comet", "  ", None, "rocket"])
    vectors = np.random.RandomState(0).normal(size=(5, 512)).astype(np.float32)
    assert encoder.dim == 512 and present.tolist() == [True, True, False, False, True]
    np.testing.assert_allclose(features[[0, 1, 4]], vectors[[0, 1, 0]], atol=1e-6)
    with pytest.raises(EncoderError, match="this folder is no SavedModel"):
        encoders.load("text", tmp_path)


def test_local_audio_module(tmp_path):
    """A module with the call of YAMNet's own: one clip -> scores, embeddings, log mel."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def __call__(self, wave):
            patch = tf.stack([tf.reduce_mean(wave), tf.reduce_max(wave), tf.reduce_min(wave)])[None]
            return tf.zeros([1, 521]), patch, tf.zeros([96, 64])

    tf.saved_model.save(Module(), str(tmp_path / "m"))
    encoder = encoders.load("audio", tmp_path / "m")
    wave = np.linspace(-0.5, 0.75, 15600, dtype=np.float32)
    np.testing.assert_allclose(encoder.encode_batch([wave])[0], [wave.mean(), 0.75, -0.5], atol=1e-5)


@pytest.mark.parametrize(("modality", "dim"), [("image", 1280), ("text", 512), ("audio", 1024)])
def test_a_linear_probe_recovers_the_planted_factors(demo, demo_features, modality, dim):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    catalog, _, features, _ = demo_features
    rows = features.items[modality]
    assert rows.dim == dim
    factors = json.loads((demo / "truth.json").read_text())["factors"][modality]
    labels = np.array([factors[item] for item in catalog.ids])[rows.present]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    assert cross_val_score(probe, rows[rows.present], labels, cv=3).mean() >= 0.9


def test_offline_says_so_and_is_fixed(caplog):
    with caplog.at_level("INFO", logger="mmtfrs"):
        encoder = encoders.load("text", "offline")
    assert "offline stand-in, not a pretrained network" in caplog.text
    first, _ = encoder.encode(["a rocket near the comet"])
    assert encoders.load("text", "offline").fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(encoders.load("text", "offline").encode(["a rocket near the comet"])[0], first)


def test_an_encoder_must_have_every_method():
    from mmtfrs.encoders.base import Encoder

    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Encoder,), {"decode": None})()


def test_encode_takes_paths_and_bytes_alike(demo):
    catalog = mmtfrs.Catalog.read(demo / "items.csv")
    row = next(row for row in range(600) if catalog.medium(row, "image"))
    path = catalog.medium(row, "image")
    encoder = encoders.load("image", "offline")
    with open(path, "rb") as file:
        features, _ = encoder.encode([path, file.read()])
    np.testing.assert_allclose(features[0], features[1], atol=1e-4)


def own_text():
    return encoders.load("text", "offline")


def test_an_encoder_of_ones_own_and_its_harness():
    encoder = encoders.load("text", f"{__name__}:own_text")
    check_encoder(encoder, ["a red shoe", "a rocket", "x"])
    check_encoder(encoders.load("image", "offline"), _pictures()[:3])
    with pytest.raises(EncoderError, match=f"`encoders.image` {__name__}:own_text: must give a .*Encoder of image"):
        encoders.load("image", f"{__name__}:own_text")
    with pytest.raises(ConfigError, match="nowhere cannot be imported"):
        encoders.load("text", "nowhere:make")

    class Leaking(type(encoder)):
        def encode_batch(self, media):
            return super().encode_batch(media) + len(media)

    leaking = Leaking("leaking", encoder._network, encoder.dim, "1", encoder.trackables)
    with pytest.raises(AssertionError, match="must not depend on the others of its batch"):
        check_encoder(leaking, ["a red shoe", "a rocket"])
