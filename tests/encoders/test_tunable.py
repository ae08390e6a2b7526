"""Encoders whose top blocks have become others: what is saved is loaded as what it was, and all below is as it was."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_bert import write_bert

from mmtfrs import encoders
from mmtfrs._keras import tf
from mmtfrs.encoders.audio import HOP, PATCH, AudioEncoder
from mmtfrs.encoders.yamnet import YAMNet

_TEXTS = ["red shoes", "a blue shoe"]


def _changed(encoder, seed=0):
    """The top block, by a training that somebody dreamt of."""
    rng = np.random.default_rng(seed)
    for variable in encoder.tunable.blocks[-1]:
        variable.assign_add(rng.normal(0.0, 0.1, variable.shape))


def _check_folder(modality, path, tmp_path, media, layer):
    """Only tensors with `layer` in their names are others, and features of what is loaded are those of what was saved."""
    encoder = encoders.load(modality, path)
    before, _ = encoder.encode(media)
    _changed(encoder)
    expected, _ = encoder.encode(media)
    assert np.abs(expected - before).max() > 1e-3
    name = encoder.tunable.save(tmp_path / "tuned")
    again = encoders.load(modality, name)
    np.testing.assert_array_equal(again.encode(media)[0], expected)
    assert again.fingerprint != encoder.fingerprint and again.name == str(tmp_path / "tuned")
    old, new = load_file(path / "model.safetensors"), load_file(tmp_path / "tuned" / "model.safetensors")
    assert sorted(old) == sorted(new)
    others = {key for key in old if old[key].shape != new[key].shape or (old[key] != new[key]).any()}
    assert others and all(layer in key for key in others), others
    assert {key for key in old if layer in key} - others == set()
    return others


def test_a_text_folder_keeps_all_below(tmp_path):
    folder = write_bert(tmp_path / "bert")
    assert [len(block) for block in encoders.load("text", folder).tunable.blocks] == [12, 12]  # 4 dense layers and 2 norms
    others = _check_folder("text", folder, tmp_path, _TEXTS, "encoder.layer.1.")
    assert len(others) == 16  # query, key and value are layers of their own there
    assert "pooler.dense.weight" in load_file(tmp_path / "tuned" / "model.safetensors")  # for other programs


def test_weights_of_several_files_and_old_names(tmp_path):
    """As early releases of BERT called them; numbers of half the size stay what they were where nothing was trained."""
    folder = write_bert(tmp_path / "bert")
    arrays = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): values
        for name, values in load_file(folder / "model.safetensors").items()
    }
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    modules = [{"path": path, "type": f"x.{kind}"} for kind, path in (("Transformer", ""), ("Pooling", "1_Pooling"))]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "model.safetensors").unlink()
    for number, names in enumerate((sorted(arrays)[::2], sorted(arrays)[1::2])):
        save_file({name: arrays[name].astype(np.float16) for name in names}, folder / f"model-{number}.safetensors")
    index = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(sorted(arrays))}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    encoder = encoders.load("text", folder)
    _changed(encoder)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "left").write_text("by an attempt that was killed")
    again = encoders.load("text", encoder.tunable.save(tmp_path / "tuned"))
    np.testing.assert_array_equal(again.encode(_TEXTS)[0], encoder.encode(_TEXTS)[0])
    names = sorted(path.name for path in (tmp_path / "tuned").iterdir())
    assert names == ["1_Pooling", "config.json", "model.safetensors", "modules.json", "vocab.txt"]
    new = load_file(tmp_path / "tuned" / "model.safetensors")
    assert sorted(new) == sorted(arrays)
    for name, values in arrays.items():
        if ".layer.1." not in name:
            np.testing.assert_array_equal(new[name], values.astype(np.float16), err_msg=name)


@pytest.mark.parametrize("name", ["distilbert", "mpnet"])
def test_other_families(real, tmp_path, name):
    _check_folder("text", real / "encoders" / f"tiny-{name}", tmp_path, _TEXTS, "layer.1.")


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_image_folders(real, tmp_path, name):
    """DINOv2's numbers for each channel are in the kernels, and so they are ones in every layer that is written."""
    path = real / "encoders" / f"tiny-{name}"
    media = [real / "encoders" / "images" / f"{number}.png" for number in range(2)]
    encoder = encoders.load("image", path)
    layer = f"encoder.layer.{len(encoder.tunable.blocks) - 1}."
    if name == "vit":
        _check_folder("image", path, tmp_path, media, layer)
    _changed(encoder)
    again = encoders.load("image", encoder.tunable.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.encode(media)[0], encoder.encode(media)[0])
    assert again.encode([shutil.copyfile(media[0], tmp_path / "0.png")])[1].all()


def test_yamnet_keeps_all_below(tmp_path):
    """Its blocks are its layers, without batch normalization and without the scores of classes."""
    network, rng = YAMNet().model, np.random.default_rng(0)
    for layer in network.layers:  # so that something of the sound arrives at the top
        if layer.name.endswith("_conv"):
            (kernel,) = layer.variables
            fan = 9 if "depthwise" in layer.name else kernel.shape[2]
            kernel.assign(rng.normal(0.0, (2 / fan) ** 0.5, kernel.shape))
    network.save_weights(tmp_path / "yamnet.h5")
    encoder = encoders.load("audio", tmp_path / "yamnet.h5")
    blocks = encoder.tunable.blocks
    assert [len(block) for block in blocks] == [1] + [2] * 13
    assert [tuple(variable.shape) for variable in blocks[-1]] == [(3, 3, 1024, 1), (1, 1, 1024, 1024)]
    wave = rng.uniform(-1, 1, 15_600).astype(np.float32)
    before = encoder.encode_batch([wave])
    _changed(encoder)
    expected = encoder.encode_batch([wave])
    assert np.abs(expected - before).max() > 1e-3
    again = encoders.load("audio", encoder.tunable.save(tmp_path / "tuned"))
    np.testing.assert_array_equal(again.encode_batch([wave]), expected)
    assert again.fingerprint != encoder.fingerprint
    found = encoders.load("audio", tmp_path / "yamnet.h5").trackables
    same = [np.array_equal(old, new) for old, new in zip(found, again.trackables, strict=True)]
    names = [variable.name for variable in found]
    assert {name for name, kept in zip(names, same, strict=True) if not kept} == {variable.name for variable in blocks[-1]}


def test_gradient_goes_through_the_patches_of_sounds():
    """Of which there are more than go through the network at once; derived by hand."""
    rng = np.random.default_rng(0)
    kernel = tf.Variable(rng.normal(size=(PATCH, 2)).astype(np.float32) / 100)
    encoder = AudioEncoder("x", lambda patches: tf.matmul(patches, kernel), 2, "x", [kernel])
    waves = [rng.uniform(-1, 1, PATCH + HOP * more).astype(np.float32) for more in (40, 30)]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(encoder(*encoder.collate(waves))))
    # f = mean(p) K, and so d f^2 / d K = mean(p)^T 2 f.
    means = [np.mean([wave[at : at + PATCH] for at in range(0, len(wave) - PATCH + 1, HOP)], axis=0) for wave in waves]
    expected = sum(np.outer(mean, 2 * mean @ kernel.numpy()) for mean in means)
    np.testing.assert_allclose(tape.gradient(total, kernel), expected, rtol=1e-3, atol=1e-5)
