"""Encoders of texts and images from folders as Hugging Face and sentence-transformers write them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmtfrs._keras import tf
from mmtfrs.encoders.base import fingerprint
from mmtfrs.encoders.bert import FAMILIES, HEADS, Bert
from mmtfrs.encoders.image import ImageEncoder
from mmtfrs.encoders.model_folder import ModelFolder
from mmtfrs.encoders.names import JOINT
from mmtfrs.encoders.preprocessor_file import read_preprocessor
from mmtfrs.encoders.text import TextEncoder
from mmtfrs.encoders.tokenizer_files import read_tokens
from mmtfrs.encoders.tunable import Tunable
from mmtfrs.encoders.vit import FAMILIES as IMAGE_FAMILIES
from mmtfrs.encoders.vit import HEADS as IMAGE_HEADS
from mmtfrs.encoders.vit import ViT
from mmtfrs.encoders.weights import Weights
from mmtfrs.errors import EncoderError

_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"}


def load_text_folder(path: Path, name: str) -> TextEncoder:
    """A folder with `config.json`, `model.safetensors` and the tokenizer's files; pooling and normalization are those of
    `modules.json`, and the mean over tokens where there is none.

    Args:
        path: the folder.
        name: what the user asked for.

    Raises:
        EncoderError: something is missing, damaged, or of a kind that is not known.
    """
    folder = ModelFolder(path)
    with folder.told():
        config, kind = _config(folder, "text", FAMILIES)
        weights = folder.weights(FAMILIES[kind].prefixes)
        network = Bert(config, weights)
        weights.check_empty(HEADS)
        pool, extra = _pooling(folder)
        tokens = read_tokens(folder, int(config["vocab_size"]), network.longest)

    def encode(texts: tf.Tensor) -> tf.Tensor:
        ids, there = tokens(texts)
        return pool(network(ids, there), there)

    mark = fingerprint("text-folder/1", folder.fingerprint)
    tunable = _tunable(folder, weights, network.layers)
    return TextEncoder(name, encode, network.width * extra, mark, weights.variables, tunable)


def load_image_folder(path: Path, name: str) -> ImageEncoder:
    """A folder with `config.json`, `model.safetensors` and `preprocessor_config.json`: ViT or DINOv2, of which the first token
    is the feature.

    Args:
        path: the folder.
        name: what the user asked for.

    Raises:
        EncoderError: something is missing, damaged, or of a kind that is not known.
    """
    folder = ModelFolder(path)
    with folder.told():
        config, kind = _config(folder, "image", IMAGE_FAMILIES)
        prepared = read_preprocessor(folder)
        weights = folder.weights((IMAGE_FAMILIES[kind].prefix,))
        network = ViT(config, weights, prepared.size)
        weights.check_empty(IMAGE_HEADS)

    def encode(images: tf.Tensor) -> tf.Tensor:
        return network(prepared(images))[:, 0]

    mark = fingerprint("image-folder/1", folder.fingerprint)
    tunable = _tunable(folder, weights, network.layers)
    return ImageEncoder(name, encode, prepared.size, network.width, mark, weights.variables, tunable, prepared.fit)


def _config(folder: ModelFolder, what: str, families: Collection[str]) -> tuple[dict, str]:
    """`config.json`, and which of the families it is of."""
    config = folder.json("config.json")
    kind = config.get("model_type")
    if kind not in families:
        known = ", ".join(families)
        hint = f" Both towers of this one have a name of their own: `{kind}:{folder.path}`." if kind in JOINT else ""
        raise EncoderError(f"{folder.path / 'config.json'}: unknown model_type `{kind}`; {what} encoders are {known}.{hint}")
    return config, kind


def _tunable(folder: ModelFolder, weights: Weights, layers: Sequence[Mapping[str, Sequence[tf.Variable]]]) -> Tunable:
    """Each layer is a block; what is saved is a folder of the same kind."""

    def save(path: Path) -> str:
        folder.copy(path, weights.tensors())
        return str(path)

    return Tunable([[variable for part in layer.values() for variable in part] for layer in layers], save)


def _pooling(folder: ModelFolder) -> tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], int]:
    """What makes one vector of those of the tokens, and how many times as wide it is."""
    kinds, normalized = ["mean"], False
    for module in folder.json("modules.json", []):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            settings = folder.json(f"{module['path']}/config.json")
            wanted = [name for name, value in settings.items() if name.startswith("pooling_mode") and value is True]
            unknown = [name for name in wanted if name not in _POOLINGS]
            if unknown or not wanted:
                raise EncoderError(
                    f"{folder.path / module['path']}: unknown pooling {', '.join(unknown)}; known: {', '.join(_POOLINGS)}."
                )
            kinds = [_POOLINGS[name] for name in wanted]
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise EncoderError(
                f"{folder.path / 'modules.json'}: unknown module {kind}; known are Transformer, Pooling and Normalize."
            )

    def pool(states: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
        weights = tf.cast(there, tf.float32)[..., None]
        made = {
            "cls": lambda: states[:, 0],
            "mean": lambda: tf.reduce_sum(states * weights, axis=1) / tf.reduce_sum(weights, axis=1),
            "max": lambda: tf.reduce_max(tf.where(weights > 0, states, np.float32(-np.inf)), axis=1),
        }
        pooled = tf.concat([made[kind]() for kind in kinds], axis=1)
        return tf.math.l2_normalize(pooled, axis=1, epsilon=1e-24) if normalized else pooled

    return pool, len(kinds)
