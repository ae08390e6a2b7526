"""Classical encoders: MFCC statistics, the LSTM over them, TF-IDF; and every network of keras.applications by name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import keras, tf
from mmtfrs.encoders.applications import NETWORKS
from mmtfrs.encoders.audio import PATCH
from mmtfrs.encoders.mfcc import mfccs
from mmtfrs.encoders.tfidf import BUCKETS, fit_tfidf, load_tfidf
from mmtfrs.errors import EncoderError
from mmtfrs.exporting.refresh import refresh

TEXTS = ["the red shoe", "the blue shoe", "the red red hat", "  ", "the sea"]


def _tone(pitch, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


@pytest.mark.parametrize(("name", "dim"), [("mfcc", 100), ("lstm", 256)])
def test_sounds_alike_are_close(name, dim):
    encoder = encoders.load("audio", name)
    noise = np.random.default_rng(0).normal(0, 0.2, 16_000).astype(np.float32)
    features = encoder.encode_batch([_tone(300), _tone(310), noise])
    assert features.shape == (3, dim) == (3, encoder.dim) and np.isfinite(features).all()
    near, far = np.linalg.norm(features[0] - features[1]), np.linalg.norm(features[0] - features[2])
    assert near < 0.5 * far
    alone = encoder.encode_batch([_tone(300)])
    np.testing.assert_allclose(alone[0], features[0], atol=1e-4)  # padding does not leak
    assert encoders.load("audio", name).fingerprint == encoder.fingerprint


def test_mfcc_statistics_by_numpy():
    patch = np.random.default_rng(0).normal(0, 0.1, (1, PATCH)).astype(np.float32)
    frames = mfccs(tf.constant(patch)).numpy()[0]
    found = encoders.load("audio", "mfcc")._network(tf.constant(patch)).numpy()[0]
    steps = np.abs(np.diff(frames, axis=0)).mean(0)
    np.testing.assert_allclose(
        found, np.concatenate([frames.mean(0), frames.std(0), frames.min(0), frames.max(0), steps]), atol=1e-4
    )


def test_lstm_takes_trained_weights(tmp_path):
    model = keras.Sequential([keras.Input((None, 20)), keras.layers.LSTM(128, return_sequences=True)])
    model.save_weights(tmp_path / "trained.h5")
    trained, fixed = encoders.load("audio", f"lstm:{tmp_path / 'trained.h5'}"), encoders.load("audio", "lstm")
    assert trained.fingerprint != fixed.fingerprint
    assert np.abs(trained.encode_batch([_tone(300)]) - fixed.encode_batch([_tone(300)])).max() > 1e-3
    (tmp_path / "other.h5").write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="no weights of an LSTM of 128 units over 20 MFCCs"):
        encoders.load("audio", f"lstm:{tmp_path / 'other.h5'}")
    with pytest.raises(EncoderError, match="missing.h5: there is no such weights file"):
        encoders.load("audio", f"lstm:{tmp_path / 'missing.h5'}")


def test_tfidf_cosines_are_those_of_the_formula(tmp_path):
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text for text in TEXTS if text.strip()]
    fit_tfidf(TEXTS, tmp_path / "tfidf.npz")
    found = load_tfidf(tmp_path / "tfidf.npz").encode_batch([np.array(text, object) for text in texts])
    expected = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts).toarray()
    # The projection keeps angles to about one in the square root of 512.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=0.15)
    with np.load(tmp_path / "tfidf.npz") as saved:
        idf = saved["idf"]
    assert idf.shape == (BUCKETS,) and np.isclose(idf.min(), np.log(5 / 5) + 1)  # `the` is in all four


@pytest.mark.slow
def test_tfidf_is_fitted_by_the_extraction_and_travels(tmp_path):
    catalog = mmtfrs.Catalog.from_dict({"item_id": list("abcde"), "text": TEXTS})
    config = mmtfrs.Config(encoders={"text": "tfidf"})
    features = mmtfrs.extract(catalog, config, store=tmp_path / "store", progress=False)
    assert features.items["text"].present.tolist() == [True, True, True, False, True]
    events = mmtfrs.Events(["u", "u", "v"], ["a", "b", "c"], [1, 2, 3])
    model = mmtfrs.TwoTower(config, catalog, features, events)
    mmtfrs.save_run(model, tmp_path / "run")
    from mmtfrs.exporting.loaded import LoadedModel

    # The run has the file with it, wherever it goes; and the export has it for a refresh.
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "store")
    mmtfrs.export(mmtfrs.load_run(tmp_path / "moved"), tmp_path / "first" / "m")
    (tmp_path / "first").rename(tmp_path / "second")
    shutil.rmtree(tmp_path / "moved")
    done = refresh(tmp_path / "second" / "m", catalog, tmp_path / "store", progress=False)
    assert done.kept == 5
    path = done.path
    answer = LoadedModel(path).ask(
        "embed_candidate",
        {name: np.array([value], object) for name, value in (("text", b"the red shoe"), ("image", b""), ("audio", b""))},
    )
    assert answer["weights"].tolist() == [[1.0]]
    with pytest.raises(EncoderError, match="`tfidf` is fitted on a catalog"):
        encoders.load("text", "tfidf")
    with pytest.raises(EncoderError, match="no file of fitted TF-IDF weights"):
        load_tfidf(tmp_path / "missing.npz")


def test_every_application_has_a_name():
    for name in (
        "vgg16",
        "efficientnetb0",
        "efficientnetv2s",
        "resnet50",
        "mobilenetv2",
        "densenet121",
        "convnexttiny",
        "xception",
    ):
        module, class_name, size = NETWORKS[name]
        assert callable(getattr(keras.applications, class_name)) and module and size >= 224
    encoder = encoders.load("image", "mobilenetv2:random")
    features = encoder.encode_batch([np.full((224, 224, 3), 128, np.uint8)])
    assert features.shape == (1, 1280) == (1, encoder.dim)
